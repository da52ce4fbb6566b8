// Package saga decides what happens to a signup. It is a pure engine: given a saga, an event and a time, it
// returns the next saga and the events to publish. It does no I/O, reads no clock and draws no random numbers,
// so its tests can explore the real function exhaustively.
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
// Rules that the diagram cannot show:
//
//   - A signup has one or more essential steps, in declared order. One step is in progress at a time. While
//     provisioning, each step's reply sends the next step's command; while withdrawing, it sends the previous
//     step's compensation. Only the last reply leads to ready or withdrawn. A step that was never started is
//     never compensated.
//   - A timeout means unknown, never failed. The timer sends the command again. Only a definite rejection or
//     the give-up age makes a signup need attention, and even then a late success makes the saga ready.
//   - Only the Member service raises the generation, for an operator's retry or a withdrawal. Timers repeat the
//     current generation. A reply above the saga's own generation answers no command: it is recorded in the
//     timeline and changes nothing else. So neither a forged message nor a Member database restored to an older
//     state needs an operator.
//   - The version counts transitions and orders everything. A repeated command does not raise it, because
//     nothing new is known.
//   - A reply that fits no state is recorded and changes nothing.
package saga
