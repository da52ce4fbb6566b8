// Storage-svc gives each member a storage, and takes it away for good. It is
// told the desired state by the Member service and replies when it is reached;
// run it without arguments for its subcommands.
package main

import "github.com/signup-saga/signup-saga/service"

func main() { service.Main(run) }
