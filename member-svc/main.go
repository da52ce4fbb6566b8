// Command member-svc signs members up and sees each signup through.
package main

import "github.com/signup-saga/signup-saga/service"

func main() { service.Main(run) }
