// Package service is the frame that both services stand in: configuration from
// the environment, logging, Postgres and NATS connections that wait for what is
// missing, an HTTP server that drains without resetting a connection, a durable
// consumer that outlives its broker, and the one order in which a process stops.
//
// It knows no members and no storages. Of events it knows what the contract says
// about every service: which lanes and streams it has, and which subjects they take.
//
// A service is a main of one line over a run function:
//
//	func main() { service.Main(run) }
//
// run finds the subcommand ([Dispatch]), which loads its configuration ([LoadConfig]),
// opens Postgres and NATS ([Program.Connect]) and hands its parts to a [Process],
// which returns after an orderly stop.
package service
