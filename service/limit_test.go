package service_test

import (
	"fmt"
	"net/netip"
	"runtime"
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

// However many keys there are: each has its limit, next to none suffers from others, and the memory stays the same.
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
		l.Allow("guess of " + fmt.Sprint(i%100)) // two of them pass for each
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

func TestAddressKey(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::9":      "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
	} {
		if got := service.AddressKey(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
