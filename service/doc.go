// Package service is the runtime that both services share: configuration from the environment, logging,
// Postgres and NATS connections that wait for a missing server, an HTTP server that drains without resetting a
// connection, a durable consumer that outlives its broker, and an ordered shutdown.
//
// It knows nothing about members and storages. About events it knows only what the contract defines for every
// service: lanes, streams and subjects.
//
// A service's main is one line over a run function:
//
//	func main() { service.Main(run) }
//
// run selects the subcommand ([Dispatch]). The subcommand loads its configuration ([With]). serve connects to
// Postgres and NATS ([Program.Serve]), adds its parts to a [Base], and returns after an orderly stop.
package service
