// Package contract is what the services agree on: the table of event types
// and their lanes, the names of streams and subjects, and the one wire type of
// each message. It depends on the standard library only, and on neither
// service.
//
// Messages are CloudEvents 1.0. The outbox publishes them in binary content
// mode (attributes as headers, data as body); [Parse] also reads structured
// mode, which is how the golden messages in testdata/v1 are kept. Golden
// messages are never changed or removed: a message that was ever published may
// still be in a stream when a newer version reads it.
package contract
