// Bench measures the outbox against what the same machine can do at most, and
// against other ways to move events from Postgres to JetStream.
//
// Every figure that counts is a ratio: the limit and the system under test run
// alternately, within minutes of each other, on one Postgres (fsync on,
// synchronous_commit on) and one NATS server (each message on disk before it is
// acknowledged). Each run gets a fresh database and a fresh stream, and ends
// with an audit: a lost or doubled event fails the whole row.
//
//	main.go      flags, servers, the rows in order
//	bench.go     what all rows share
//	site.go      a fresh database and a fresh stream for one run
//	system.go    what moves the events: the outbox, or a peer
//	row_*.go     one row of the table each
//	ledger.go    which events arrived
//	load.go      closed and open loops
//	stats.go     medians, percentiles, ratios
//	report.go    RESULTS.md
//	plot.go      latency over time as SVG
package main
