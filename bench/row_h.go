package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// cost is the cost of an argon2id hash.
type cost struct {
	kib, passes uint32
	lanes       uint8
}

func (c cost) String() string {
	return fmt.Sprintf("%g MiB, t = %d, p = %d", float64(c.kib)/1024, c.passes, c.lanes)
}

// owasp are the costs that OWASP's Password Storage Cheat Sheet considers equally strong, those that need 7 to
// 19 MiB.
var owasp = []cost{{19456, 2, 1}, {12288, 3, 1}, {7168, 5, 1}}

// rowH measures signups with password hashes of realistic cost.
func (b *bench) rowH(ctx context.Context) error {
	var ours series
	var busy atomic.Int64
	raw := make([]series, len(owasp))
	var used int // index of the cost that the service uses
	var rss, note string
	err := b.withMembers(ctx, "hash", func(s *stack) error {
		post := func(ctx context.Context) error {
			err := s.post(ctx)
			var refusal *wire.Problem
			if errors.As(err, &refusal) && refusal.Code == "busy" {
				busy.Add(1)
				err = nil
			}
			return err
		}
		if _, err := closedLoop(ctx, b.slice/2, post); err != nil { // connections, statements
			return err
		}
		parties, err := b.stackParties(ctx, s)
		if err != nil {
			return err
		}
		if used, err = s.usedCost(ctx); err != nil {
			return err
		}
		for rep := range b.reps {
			err := rotated(rep, len(owasp)+1, func(variant int) error {
				if variant < len(owasp) {
					raw[variant] = append(raw[variant], rawHashes(b.slice, owasp[variant]))
					return nil
				}
				accepted, before := s.accepted.Load(), b.usage(parties)
				_, err := closedLoop(ctx, 2*b.slice, post)
				after := b.usage(parties)
				ours = append(ours, float64(s.accepted.Load()-accepted)/after.at.Sub(before.at).Seconds())
				note = costs(after, before, ours[rep], "signup")
				return err
			})
			if err != nil {
				return err
			}
			b.note("   %d/%d: raw %s, signups %s/s", rep+1, b.reps, number(raw[used][rep]), number(ours[rep]))
		}
		if rss, err = s.peakMemory(ctx, "member"); err != nil {
			return err
		}
		return s.counted(ctx)
	}, "--hash-cost", "real")
	if err != nil {
		return err
	}
	b.reportHashes(ours, raw, used)
	b.section().notes = append(b.section().notes, note,
		fmt.Sprintf("%d signups were answered 503 busy. member-svc never had more than %s resident.", busy.Load(), rss))
	return nil
}

// reportHashes reports the results of row H. used is the index of the service's cost.
func (b *bench) reportHashes(ours series, raw []series, used int) {
	b.section().method = fmt.Sprintf(
		"%d repetitions of %s each, %d connections; POST /v1/members at a real member-svc that relays, the Storage "+
			"service stopped; the limit is argon2id with the same parameters (%s) "+
			"on all cores in one process, for %s", b.reps, 2*b.slice, connections, owasp[used], b.slice)
	b.report(line{what: "POST /v1/members at real hash cost, c = 64; limit: raw argon2id", unit: "signups/s",
		limit: raw[used], value: ours, goal: atLeast(0.85)})
	for i, c := range owasp {
		if i != used {
			b.report(line{what: fmt.Sprintf("raw argon2id, %s; limit: %s", c, owasp[used]), unit: "hashes/s",
				limit: raw[used], value: raw[i]})
		}
	}
}

// rawHashes returns how many hashes a second all cores compute.
func rawHashes(d time.Duration, c cost) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for time.Since(began) < d {
				argon2.IDKey([]byte("a long enough one"), []byte("sixteen bytes ok"), c.passes, c.kib, c.lanes, 32)
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

// usedCost returns the index of the cost that the service uses, read from a member's hash.
func (s *stack) usedCost(ctx context.Context) (int, error) {
	var phc string
	err := s.member.QueryRow(ctx, "-- name: anyHash\nSELECT password_hash FROM member LIMIT 1").Scan(&phc)
	if err != nil {
		return 0, err
	}
	var c cost
	if _, err := fmt.Sscanf(phc, "$argon2id$v=19$m=%d,t=%d,p=%d", &c.kib, &c.passes, &c.lanes); err != nil {
		return 0, err
	}
	i := slices.Index(owasp, c)
	if i < 0 {
		return 0, fmt.Errorf("hashes of the service have the cost %s, which is not compared here", c)
	}
	return i, nil
}

// peakMemory returns the peak resident memory of a process of the stack.
func (s *stack) peakMemory(ctx context.Context, name string) (string, error) {
	components, err := s.components(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range components {
		if p.name == name {
			return procValue(fmt.Sprintf("/proc/%d/status", p.pid), "VmHWM"), nil
		}
	}
	return "", fmt.Errorf("devstack status does not list %s", name)
}
