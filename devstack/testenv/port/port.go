// Package port picks loopback ports that a component can keep while it is down.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The random range lies below the ephemeral ports of the operating systems: an outgoing connection could
// otherwise take a component's port while the component is down.
const low, high = 10000, 30000

const attempts = 200

// Hold listens on the first free port of 127.0.0.1 from preferred upwards, or on a random one when preferred is 0.
// Close the listener just before the component starts.
func Hold(preferred int) (net.Listener, int, error) {
	var last error
	for i := range attempts {
		p := preferred + i
		if preferred == 0 {
			p = low + rand.IntN(high-low)
		}
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err == nil {
			return l, p, nil
		}
		last = err
	}
	return nil, 0, fmt.Errorf("find a free port from %d: %w", preferred, last)
}

// Free returns a random port that is free at this moment.
func Free() (int, error) {
	l, p, err := Hold(0)
	if err != nil {
		return 0, err
	}
	return p, l.Close()
}
