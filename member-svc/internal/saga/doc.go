// Package saga decides what happens to a signup. It is a pure engine: a saga, an
// event and a time go in, the next saga and the events to publish come out. It
// does no I/O, reads no clock and draws no random number, so its tests explore
// the real function exhaustively.
//
//	                 signed up
//	                     │
//	                     ▼      provisioned            withdraw
//	 timer: ┌──── provisioning ─────────────► ready ────────────┐
//	 again  └───────►│  ▲  │                    ▲               │
//	                 │  │  └── withdraw ────────┼───────────┐   │
//	rejected,        │  │ retry                 │           ▼   ▼     deprovisioned
//	gave up          │  │ (generation + 1)      │        withdrawing ─────────────► withdrawn
//	                 ▼  │                       │         │  ▲    ▲                     ▲
//	            needs_attention ── provisioned ─┘         │  │    │                     │
//	                    └────────── withdraw ─────────────┼──┼────┘                     │
//	                               rejected, gave up,     ▼  │ retry (generation + 1)   │
//	                                             withdraw_needs_attention ──────────────┘
//
// Rules that the picture cannot show:
//
//   - A signup has essential steps, declared in order; most have one. Provisioning and
//     withdrawing are each of one step at a time: the reply to the command of a step
//     sends the command of the next one, or when withdrawing the compensation of the
//     one before, and only the last reply leads to ready or withdrawn. Steps that were
//     never begun are never compensated.
//   - A time-out means unknown, never failed. The timer sends the command again;
//     only a definite rejection, or the give-up age, asks for a person, and even
//     then a late success still makes the saga ready.
//   - Only the Member service raises the generation, for an operator's retry or a
//     withdrawal. Timers repeat a generation. Nobody commanded a reply above the saga's
//     own generation: it changes the timeline and nothing else, so neither a forged
//     message nor a Member database restored to an older state needs a person.
//   - The version counts transitions and orders everything; a repeated command
//     does not move it, since nothing has become known.
//   - A reply that fits no state is recorded and changes nothing.
package saga
