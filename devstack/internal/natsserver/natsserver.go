// Package natsserver runs a NATS server with JetStream in this process.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/signup-saga/signup-saga/devstack/testenv/port"
)

const readyLimit = 30 * time.Second

// Run serves NATS on addr (host:port), with its files below dir, until ctx is done. Port 0 stands for any free
// port. It calls ready with the server's URL once JetStream accepts messages. Each message is on disk before it is
// acknowledged.
func Run(ctx context.Context, addr, dir string, ready func(url string)) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	number, err := strconv.Atoi(portText)
	if err == nil && number == 0 {
		number, err = port.Free()
	}
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "devstack",
		Host:       host,
		Port:       number,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoSigs:     true,
	})
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	s.ConfigureLogger()
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(readyLimit) {
		return errors.New("the server did not start; its log says why")
	}
	if !s.JetStreamEnabled() {
		return errors.New("JetStream did not start; the log says why")
	}
	ready("nats://" + net.JoinHostPort(host, strconv.Itoa(number)))
	<-ctx.Done()
	return nil
}
