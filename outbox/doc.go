// Package outbox publishes the events that Postgres transactions committed to NATS JetStream: all of them,
// nothing else, and each exactly once per stream.
//
// A transaction appends its own events ([Append], [AppendBatch], [InTx]). A [Relay] in every replica reads
// committed events and publishes them in atomic batches. Relaying never updates or deletes a row: both tables of
// a lane are append-only logs, so a long transaction elsewhere in the database cannot bloat them with dead rows.
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
// Ids are allocated in one order and committed in another: when the relay reads id 8, id 7 may belong to a
// transaction that is still open. The relay records such an id as a gap and queries for it in every later read.
// It must eventually drop the ids of rolled-back transactions, and may do so only once their owner has ended:
//
//  1. A row's xid column comes first and its default is evaluated first, so the owner of an id has its transaction id
//     before it allocates the id (and the sequence caches nothing, so every id is allocated when it is used).
//  2. A gap is stamped with the xid of the transaction that first records it in a checkpoint. That xid is assigned
//     after the read that missed the id, hence after a larger id was allocated, hence after the owner's xid was
//     assigned: owner < stamp.
//  3. A later read whose snapshot has xmin >= stamp sees the effects of every committed transaction below the stamp.
//     If that read does not return the id, the owner rolled back, and the gap will never be filled.
//
// pg_snapshot_xmax of the read would not work as the stamp: it is the latest completed xid plus one, and the
// owner's xid may be above it.
//
// # No event is published twice into a stream
//
// Every batch names the sequence that the stream must end with, and the broker stores either the whole batch or
// nothing. A few events are published one by one, which is faster: each names its sequence, and is sent once the
// one before it is acknowledged. The broker refuses a replaced relay, a repeated batch and a batch that arrives
// late, all by the same rule; no deduplication window is involved. The relay publishes the next batch while the
// checkpoint of the last one is still being written. After any doubt (a lost acknowledgement, a lost connection,
// a restart, a checkpoint that a crash of the database undid) the relay discards its state in memory, loads the
// newest checkpoint and reads the stream from stream_seq on: its own events there are published, whichever relay
// published them.
//
// When the stream is missing or ends before stream_seq, the broker has lost data. Nobody can know which of the
// lost messages had been consumed, so the relay publishes the events of the replay window again, with their old
// ids. Consumers must therefore be idempotent, by the state they keep rather than by remembering ids. The relay
// does the same when the database has moved to another cluster: what was published after the database was copied
// is unknown, and stamps have no meaning in the new cluster.
//
// A model in the tests explores every order of these steps, crashes and losses within small bounds. It fails
// when any one of the rules is removed.
//
// # Order
//
// Events of one key reach the stream in the order of their appends if each was appended while its transaction
// held the lock of the key's row: the transaction that got the lock later committed later, and a snapshot that
// shows the later event shows the earlier one too. Replays repeat that order.
package outbox
