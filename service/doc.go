// Package service is the frame that both services stand in: configuration from
// the environment, logging, Postgres and NATS connections that wait for what is
// missing, an HTTP server that drains without resetting a connection, a durable
// consumer that outlives its broker, and the one order in which a process stops.
//
// It knows nothing about members, storages or events.
//
// A service is a main of one line over a run function:
//
//	func main() { service.Main(run) }
//
// run loads its configuration ([LoadConfig]), opens what it needs ([OpenPool],
// [WaitMigrated], [ConnectNATS]) and hands its parts to a [Process], which
// returns after an orderly stop.
package service
