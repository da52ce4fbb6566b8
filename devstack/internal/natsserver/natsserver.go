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
)

const readyLimit = 30 * time.Second

// Run serves NATS on addr (host:port), with its files below dir, until ctx is done. It calls ready with the
// server's URL once JetStream accepts messages. Each message is on disk before it is acknowledged.
func Run(ctx context.Context, addr, dir string, ready func(url string)) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "devstack",
		Host:       host,
		Port:       port,
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
	ready("nats://" + addr)
	<-ctx.Done()
	return nil
}
