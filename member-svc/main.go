// Command member-svc signs members up and carries each signup through to its end.
package main

import "github.com/signup-saga/signup-saga/service"

func main() { service.Main(run) }
