// Package outbox publishes what a Postgres transaction did to NATS JetStream:
// all of it, nothing else, and into each stream exactly once.
//
// An event is appended in the transaction that it tells of ([Append],
// [AppendBatch], [InTx]); a [Relay] in every replica reads committed events and
// publishes them in atomic batches. Nothing is ever updated or deleted while
// relaying: both tables of a lane are logs, so a long transaction elsewhere in
// the database cannot turn them into a heap of dead rows.
//
//	your transaction          relay (one leads, the others stand by)         JetStream
//	┌────────────────┐   ┌───────────────────────────────────────────┐
//	│ business rows  │   │ newest checkpoint: hi, gaps, stream_seq   │
//	│ outbox_event ──┼──►│ 1 read  id > hi, ids in gaps, xmin        │
//	└────────────────┘   │ 2 publish, expecting the stream to end ───┼──► stored behind
//	                     │   at stream_seq: many as an atomic batch  │    stream_seq,
//	                     │ 3 append checkpoint n+1 if n is mine      │    or refused
//	                     └───────────────────────────────────────────┘
//
// # No committed event is skipped
//
// Ids are drawn in one order and committed in another: when id 8 is read, 7 may
// belong to a transaction that is still open. The relay remembers such an id as
// a gap and looks for it in every later read. It must forget the ids of rolled
// back transactions some day, and may do so only when their owner has ended:
//
//  1. A row's xid column comes first and its default is evaluated first, so the
//     owner of an id has its transaction id before it draws the id (and the
//     sequence caches nothing, so every id is drawn when it is used).
//  2. A gap is stamped with the xid of the transaction that first records it in
//     a checkpoint. That xid is taken after the read that missed the id, hence
//     after a larger id had been drawn, hence after the owner took its own:
//     owner < stamp.
//  3. A later read whose snapshot has xmin >= stamp sees the effects of every
//     transaction below the stamp that committed. If it does not show the id,
//     the owner rolled back, and nobody will ever fill the gap.
//
// pg_snapshot_xmax of the read would not do as the stamp: it is the latest
// completed xid plus one, and the owner may be above it.
//
// # No event is published twice into a stream
//
// Every batch names the sequence that the stream must end with, and the broker
// stores all of it or nothing. Few events go one by one, which is faster: each
// names its sequence and leaves when the one before it is acknowledged. A relay
// that was replaced, a repeated batch and a batch that arrives late are refused
// alike; no deduplication window is involved. While its checkpoint is on the way
// to the table, the next batch is published already. After any doubt (a lost acknowledgement, a lost connection, a
// restart, a checkpoint that a crash took back) the relay forgets all it knows,
// loads the newest checkpoint and reads the stream from stream_seq on: its own
// events there are published, whoever published them.
//
// When the stream is gone or ends before stream_seq, the broker has lost data.
// Nobody can know which of it had been consumed, so the events of the replay
// window are published again, with their old ids. Consumers must therefore be
// idempotent, by the state they keep rather than by remembering ids. The same is
// done when the database has moved to another cluster: what was published after
// it was copied is unknown, and the stamps mean nothing there.
//
// A model in the tests takes every order of these steps, crashes and losses
// within small bounds, and turns red when any one of the rules is taken away.
//
// # Order
//
// Events of one key reach the stream in the order of their appends if each was
// appended while holding the key's row lock: whoever got the lock later
// committed later, and a snapshot that shows the later event shows the earlier
// one too. Replays repeat that order.
package outbox
