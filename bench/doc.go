// Bench measures the outbox and whole sagas. It compares them with the limit of the same machine, and with other
// ways to do the same.
//
// Every figure that counts is a ratio: the limit and the system under test run alternately, within minutes of
// each other, on one Postgres (fsync on, synchronous_commit on) and one NATS server (each message on disk before
// it is acknowledged). Each run gets a new database and a new stream, warms up before its clock starts, and ends
// with an audit. The whole row fails if an event is lost or doubled, if a saga is not ready, or if a storage was
// not created exactly once.
//
//	main.go      flags, servers, output files
//	bench.go     the rows in order, and what all of them share
//	row_*.go     one row of the result each; D is in row_r.go
//	limits.sql   the tables of the limits
//	operators.sql  the data that row A reads
//	estimate.go  how long the rows take
//	site.go      a fresh database and a fresh stream for one run
//	system.go    what moves events: the outbox, or a peer_*.go
//	raw.go       the upper limit for any relay
//	steady.go    events at a constant rate, with their latency
//	stack.go     the product, run by devstack, and its clients
//	watcher.go   how clients notice that a saga is ready
//	parts.go     where the elapsed time and the processor time of a saga go
//	samples.go   where Postgres's part of it goes
//	process.go   sagas in one process without a broker
//	ledger.go    which events arrived
//	load.go      closed and open loops
//	usage.go     processor time of every process
//	stats.go     medians, percentiles, ratios
//	line.go      a line of the result and its goal
//	report.go    RESULTS.md, a section per row
//	plot.go      latency over time as SVG
//	child.go     the roles of this program as a child process
package main
