package service_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

func TestLimiterRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.NewLimiter(3, time.Minute)
		take := func(key string) (n int) {
			for l.Allow(key) == 0 {
				n++
			}
			return n
		}
		if n := take("a"); n != 3 {
			t.Errorf("%d at once", n)
		}
		if wait := l.Allow("a"); wait != time.Minute {
			t.Errorf("wait %s", wait)
		}
		if n := take("b"); n != 3 {
			t.Errorf("another key: %d", n)
		}
		<-time.After(90 * time.Second)
		if n, wait := take("a"), l.Allow("a"); n != 1 || wait != 30*time.Second {
			t.Errorf("after 90 s: %d, then wait %s", n, wait)
		}
		<-time.After(time.Hour)
		if n := take("a"); n != 3 {
			t.Errorf("after an hour: %d", n)
		}
	})
}

// However many keys there are, each has its limit, almost none is affected by others, and the memory stays the
// same.
func TestLimiterOfManyKeys(t *testing.T) {
	l := service.NewLimiter(2, time.Hour)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	refused := 0
	for i := range 30_000 {
		if l.Allow(fmt.Sprint(i)) != 0 {
			refused++
		}
	}
	for i := range 1_000_000 {
		l.Allow("guess of " + fmt.Sprint(i%100)) // two attempts pass for each key
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if refused > 30 {
		t.Errorf("%d of 30,000 keys were refused their first time", refused)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes more", grown)
	}
	for i := range 1000 {
		key := fmt.Sprint(i)
		for range 2 {
			l.Allow(key)
		}
		if l.Allow(key) == 0 {
			t.Fatalf("key %s passes a limit of 2", key)
		}
	}
}

// However many addresses somebody has, their networks have limits too, and other networks keep theirs.
func TestLimiterCountsNetworks(t *testing.T) {
	for name, c := range map[string]struct {
		address  string // may contain a verb for the number of the attempt
		pass     int    // of 1000 attempts at a limit of 3
		outsider string
	}{
		"an IPv4 address":             {"192.0.2.1", 3, "192.0.2.2"},
		"an IPv4 network of 24 bits":  {"192.0.2.%d", 8 * 3, "192.0.3.1"},
		"64 bits, which one may have": {"2001:db8::%x", 3, "2001:db8:0:1::1"},
		"56 bits":                     {"2001:db8:0:%x::1", 4 * 3, "2001:db8:0:100::1"},
		"48 bits":                     {"2001:db8:0:%x00::1", 8 * 3, "2001:db8:1::1"},
	} {
		t.Run(name, func(t *testing.T) {
			l, passed := service.NewLimiter(3, time.Hour), 0
			for i := range 1000 {
				text := c.address
				if strings.Contains(text, "%") {
					text = fmt.Sprintf(text, i%256)
				}
				if l.AllowFrom(netip.MustParseAddr(text), "") == 0 {
					passed++
				}
			}
			if passed != c.pass {
				t.Errorf("%d passed, want %d", passed, c.pass)
			}
			if wait := l.AllowFrom(netip.MustParseAddr(c.outsider), ""); wait != 0 {
				t.Errorf("%s has to wait %s", c.outsider, wait)
			}
			first := strings.NewReplacer("%d", "0", "%x", "0").Replace(c.address)
			if wait := l.AllowFrom(netip.MustParseAddr(first), "another key"); wait != 0 {
				t.Errorf("another key has to wait %s", wait)
			}
		})
	}
}

func TestLimiterTellsWhatWasSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := service.NewLimiter(4, time.Minute)
		spend := func(address string, want ...int) {
			t.Helper()
			for i, times := range want {
				if got := l.Spend(netip.MustParseAddr(address)); got != times {
					t.Errorf("%s, %d: %d, want %d", address, i+1, got, times)
				}
			}
		}
		spend("192.0.2.1", 1, 2, 3, 4, 4, 4)
		spend("198.51.100.1", 1)
		<-time.After(150 * time.Second)
		spend("192.0.2.1", 3)
		for i := range 16 {
			l.Spend(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
		}
		spend("203.0.113.200", 3) // the 17th of a network that counts as eight addresses
	})
}
