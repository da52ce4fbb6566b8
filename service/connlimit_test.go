package service_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/service"
)

func TestNetworks(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":               "[192.0.2.7/32×1 192.0.2.0/24×8]",
		"::ffff:192.0.2.7":        "[192.0.2.7/32×1 192.0.2.0/24×8]",
		"2001:db8:1:203:4:5:6:7":  "[2001:db8:1:203::/64×1 2001:db8:1:200::/56×4 2001:db8:1::/48×8]",
		"fe80::1%eth0":            "[fe80::/64×1 fe80::/56×4 fe80::/48×8]",
		"2001:db8:ffff:ffff::1.2": "[]",
	} {
		a, _ := netip.ParseAddr(address)
		var got []string
		for _, n := range service.Networks(a) {
			got = append(got, fmt.Sprintf("%s×%d", n.Prefix, n.Times))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// crowd takes slots under names, and records the names of those that are taken back.
type crowd struct {
	t     *testing.T
	slots *service.ConnLimiter
	gone  []string
}

func (c *crowd) take(name, address string, busy bool) service.Grant {
	c.t.Helper()
	var a netip.Addr
	if address != "" {
		a = netip.MustParseAddr(address)
	}
	slot, grant := c.slots.Acquire(a, func() { c.gone = append(c.gone, name) })
	if grant == service.Granted && busy {
		slot.SetBusy(true)
	}
	return grant
}

// Each step takes a slot; gone is the one that is taken back for it.
func TestConnLimiter(t *testing.T) {
	type step struct {
		address string // "" has no share
		busy    bool
		want    service.Grant
		gone    string
	}
	const ok, full, networkFull = service.Granted, service.Full, service.NetworkFull
	for name, c := range map[string]struct {
		total int
		steps []step
	}{
		"an address has a quarter, rounded up": {5, []step{
			{"192.0.2.1", true, ok, ""}, {"192.0.2.1", true, ok, ""}, {"192.0.2.1", true, networkFull, ""},
		}},
		"an IPv4 network of 24 bits has half": {8, []step{
			{"192.0.2.1", true, ok, ""}, {"192.0.2.2", true, ok, ""},
			{"192.0.2.3", true, ok, ""}, {"192.0.2.4", true, ok, ""},
			{"192.0.2.5", true, networkFull, ""}, {"192.0.3.5", true, ok, ""},
		}},
		"64 bits are an address": {4, []step{{"2001:db8::1", true, ok, ""}, {"2001:db8::2", true, networkFull, ""}}},
		"56 bits have half, and so have 48": {8, []step{
			{"2001:db8:0:1::1", true, ok, ""}, {"2001:db8:0:2::1", true, ok, ""}, {"2001:db8:0:3::1", true, ok, ""},
			{"2001:db8:0:100::1", true, ok, ""}, {"2001:db8:0:200::1", true, networkFull, ""},
			{"2001:db8:1::1", true, ok, ""},
		}},
		"a client with the whole share frees its own longest idle connection": {8, []step{
			{"198.51.100.1", false, ok, ""}, {"192.0.2.1", false, ok, ""}, {"192.0.2.1", false, ok, ""},
			{"192.0.2.1", false, ok, "1"}, {"192.0.2.2", false, ok, ""}, {"192.0.2.3", false, ok, ""},
			{"192.0.2.4", false, ok, "2"}, // of the address with most slots
		}},
		"the network with most idle ones makes room, of its addresses the one that holds most": {6, []step{
			{"198.51.100.1", false, ok, ""}, {"192.0.2.1", true, ok, ""},
			{"192.0.2.2", false, ok, ""}, {"192.0.2.1", false, ok, ""},
			{"203.0.113.1", false, ok, ""}, {"203.0.114.1", false, ok, ""}, {"203.0.115.1", false, ok, "3"},
		}},
		"of equal networks the longest idle slot": {4, []step{
			{"192.0.2.1", false, ok, ""}, {"198.51.100.1", false, ok, ""},
			{"203.0.113.1", false, ok, ""}, {"203.0.114.1", false, ok, ""},
			{"203.0.115.1", false, ok, "0"}, {"203.0.116.1", false, ok, "1"}, {"203.0.116.2", false, ok, "2"},
		}},
		"an idle one before a busy one": {4, []step{
			{"192.0.2.1", true, ok, ""}, {"192.0.2.2", true, ok, ""},
			{"198.51.100.1", false, ok, ""}, {"203.0.113.1", true, ok, ""},
			{"203.0.114.1", true, ok, "2"},
		}},
		"a busy one of the network that holds more than the newcomer's would": {4, []step{
			{"192.0.2.1", true, ok, ""}, {"192.0.2.2", true, ok, ""},
			{"198.51.100.1", true, ok, ""}, {"198.51.101.1", true, ok, ""},
			{"203.0.113.1", true, ok, "0"}, {"203.0.114.1", true, full, ""},
		}},
		"without a share": {3, []step{
			{"192.0.2.1", false, ok, ""}, {"", false, ok, ""}, {"", false, ok, ""},
			{"", false, ok, "0"}, {"", true, ok, "1"},
			{"192.0.2.1", false, full, ""}, // slots without a share are not taken back for others
		}},
	} {
		t.Run(name, func(t *testing.T) {
			crowd := &crowd{t: t, slots: service.NewConnLimiter(c.total)}
			for i, s := range c.steps {
				crowd.gone = nil
				if got := crowd.take(fmt.Sprint(i), s.address, s.busy); got != s.want {
					t.Errorf("step %d: %d, want %d", i, got, s.want)
				}
				if gone := fmt.Sprint(crowd.gone); gone != "["+s.gone+"]" {
					t.Errorf("step %d: %s went, want %s", i, gone, s.gone)
				}
			}
		})
	}
}

// However slots are taken, used and freed, the counts are right and no share is exceeded.
func TestSlotsCount(t *testing.T) {
	const total = 40
	slots, random := service.NewConnLimiter(total), rand.New(rand.NewPCG(7, 11))
	type taken struct {
		slot    *service.Slot
		address netip.Addr
	}
	var held []*taken
	drop := func(one *taken) { held = slices.DeleteFunc(held, func(h *taken) bool { return h == one }) }
	for range 20_000 {
		if i := random.IntN(len(held) + 1); i < len(held) && random.IntN(3) == 0 {
			held[i].slot.Release()
			drop(held[i])
			continue
		} else if i < len(held) && random.IntN(2) == 0 {
			held[i].slot.SetBusy(random.IntN(2) == 0)
			continue
		}
		one := &taken{address: netip.AddrFrom4([4]byte{192, 0, byte(random.IntN(3)), byte(random.IntN(5))})}
		slot, grant := slots.Acquire(one.address, func() { drop(one) })
		if grant == service.Granted {
			one.slot = slot
			held = append(held, one)
		}
		byNetwork := map[netip.Prefix]int{}
		for _, h := range held {
			for _, n := range service.Networks(h.address) {
				byNetwork[n.Prefix]++
			}
		}
		for n, count := range byNetwork {
			if most := map[int]int{32: 10, 24: 20}[n.Bits()]; count > most {
				t.Fatalf("%s holds %d of %d", n, count, total)
			}
		}
		if len(held) > total {
			t.Fatalf("%d slots are taken", len(held))
		}
	}
	for len(held) > 0 {
		held[0].slot.Release()
		held[0].slot.Release() // does nothing
		held = held[1:]
	}
	for i := range total {
		a := netip.AddrFrom4([4]byte{10, byte(i), 0, 1})
		slot, grant := slots.Acquire(a, func() { t.Error("a slot is missing") })
		if grant != service.Granted {
			t.Fatalf("slot %d: %d", i, grant)
		}
		slot.SetBusy(true)
	}
}
