//go:build !linux

package service

import (
	"errors"
	"net"
)

// refuseHandshakes has no portable equivalent: the accept queue is drained, but
// connections made in the moment of closing may be reset.
func refuseHandshakes(*net.TCPListener) error { return errors.ErrUnsupported }
