// Bench measures the outbox and whole sagas against what the same machine can do
// at most, and against other ways to get the same done.
//
// Every figure that counts is a ratio: the limit and the system under test run
// alternately, within minutes of each other, on one Postgres (fsync on,
// synchronous_commit on) and one NATS server (each message on disk before it is
// acknowledged). Each run gets a fresh database and a fresh stream, warms up
// before its clock starts, and ends with an audit: a lost or doubled event, or a
// saga that is not ready or whose storage was not made exactly once, fails the
// whole row.
//
//	main.go      flags, servers, what is written where
//	bench.go     the rows in order, and what all of them share
//	row_*.go     one row of the result each; D is in row_r.go
//	operators.sql  what row A looks at
//	estimate.go  how long the rows take
//	site.go      a fresh database and a fresh stream for one run
//	system.go    what moves events: the outbox, or a peer_*.go
//	raw.go       what no relay can beat
//	steady.go    events at a constant rate, with their latency
//	stack.go     the product, run by devstack, and its clients
//	watcher.go   how clients see that a saga is ready
//	parts.go     where the time and the processor of a saga go
//	samples.go   where Postgres's part of it goes
//	process.go   sagas in one process without a broker
//	ledger.go    which events arrived
//	load.go      closed and open loops
//	usage.go     processor time of every process
//	stats.go     medians, percentiles, ratios
//	line.go      a line of the result and its goal
//	report.go    RESULTS.md, a section per row
//	plot.go      latency over time as SVG
//	child.go     what this program does as a process of its own
package main
