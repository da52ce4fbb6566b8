// Storage-svc gives each member a storage, and removes it for good. The Member service sends it the desired
// state; storage-svc replies when the storage has reached that state. Run it without arguments for its
// subcommands.
package main

import "github.com/signup-saga/signup-saga/service"

func main() { service.Main(run) }
