package service

import "net/netip"

// Network is one of those that an address is counted by.
type Network struct {
	netip.Prefix
	Times int // as much as one address gets
}

// widths is how much all of a network gets, in shares of one address; the narrowest
// counts as the address. An IPv6 client usually has 64 bits of its own, a household or
// a small office 56, and a larger site 48. An IPv4 network of 24 bits is the smallest
// that is routed on the Internet, and often belongs to one customer.
//
// Whoever controls a network gets no more than that, however many addresses it has.
var widths = map[bool][]struct{ bits, times int }{
	false: {{32, 1}, {24, 8}},
	true:  {{64, 1}, {56, 4}, {48, 8}},
}

// Networks returns the networks that an address is counted by, narrowest first; none
// for an address that is not valid.
func Networks(a netip.Addr) []Network {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return nil
	}
	networks := make([]Network, 0, 3)
	for _, w := range widths[a.Is6()] {
		networks = append(networks, Network{netip.PrefixFrom(a, w.bits).Masked(), w.times})
	}
	return networks
}
