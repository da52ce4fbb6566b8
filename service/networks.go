package service

import "net/netip"

// Network is one of the networks that an address counts for.
type Network struct {
	netip.Prefix
	Times int // the network's limit, as a multiple of one address's
}

// widths lists how much a whole network gets, as a multiple of one address's share; the narrowest network
// counts as the address itself. An IPv6 client usually has 64 bits of its own, a household or a small office
// 56, and a larger site 48. An IPv4 network of 24 bits is the smallest that is routed on the Internet, and
// often belongs to one customer.
//
// An attacker who controls a network gets no more than that, however many addresses it has.
var widths = map[bool][]struct{ bits, times int }{
	false: {{32, 1}, {24, 8}},
	true:  {{64, 1}, {56, 4}, {48, 8}},
}

// Networks returns the networks that an address counts for, narrowest first; none for an invalid address.
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
