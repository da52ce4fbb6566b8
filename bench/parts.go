package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
)

// journey is a signup as its client saw it.
type journey struct {
	signup               string
	sent, answered, seen time.Time
}

type journeys []journey

// stations are the points in time that a saga passes, all by the clock of the one machine. The times between
// them add up to what the client waited.
var stations = []string{
	"request sent",
	"HTTP, check of the request: member-svc asks the database",
	"hash, commit, wake-up, relay: the broker has the command",
	"fsync, delivery: storage-svc begins to apply it",
	"commit, claim, provider: it begins to write the result",
	"commit, wake-up, relay: the broker has the reply",
	"fsync, delivery: member-svc begins to apply it",
	"commit: the client sees ready, by watcher and GET",
}

// note describes how long the parts of the journeys took on average. Unlike medians, averages add up.
func (all journeys) note(ctx context.Context, s *stack) (string, error) {
	moments, err := s.moments(ctx, all)
	if err != nil {
		return "", err
	}
	var answered time.Duration
	sums := make([]time.Duration, len(stations))
	for i, m := range moments {
		answered += all[i].answered.Sub(all[i].sent)
		for k := 1; k < len(m); k++ {
			sums[k] += m[k].Sub(m[k-1])
		}
	}
	mean := func(d time.Duration) string { return number(milliseconds(d) / float64(len(all))) }
	var out strings.Builder
	fmt.Fprintf(&out,
		"Time of each part at 100/s, mean of %s sagas; the answer 201 comes after %s ms:\n\n| since the one before "+
			"until | ms |\n|---|--:|\n",
		number(float64(len(all))), mean(answered))
	var total time.Duration
	for k, name := range stations[1:] {
		fmt.Fprintf(&out, "| %s | %s |\n", name, mean(sums[k+1]))
		total += sums[k+1]
	}
	fmt.Fprintf(&out, "| sum | %s |", mean(total))
	return out.String(), nil
}

// moments returns when each journey passed the stations.
func (s *stack) moments(ctx context.Context, all journeys) ([][]time.Time, error) {
	ids := make([]string, len(all))
	began := all[0].sent
	for i, j := range all {
		ids[i] = j.signup
		if j.sent.Before(began) {
			began = j.sent
		}
	}
	type times struct{ Created, Updated time.Time }
	sagas, storages, members := map[string]times{}, map[string]times{}, map[string]string{}
	var key, member string
	var t times
	rows, _ := s.member.Query(ctx,
		"-- name: sagaTimes\nSELECT signup_id, member_id::text, created_at, updated_at FROM signup_saga WHERE "+
			"signup_id = ANY($1)", ids)
	if _, err := pgx.ForEachRow(rows, []any{&key, &member, &t.Created, &t.Updated},
		func() error { sagas[key], members[key] = t, member; return nil }); err != nil {
		return nil, err
	}
	rows, _ = s.storage.Query(ctx,
		"-- name: storageTimes\nSELECT member_id::text, created_at, updated_at FROM storage WHERE created_at >= $1",
		began)
	if _, err := pgx.ForEachRow(rows, []any{&key, &t.Created, &t.Updated},
		func() error { storages[key] = t; return nil }); err != nil {
		return nil, err
	}
	commands, err := s.published(ctx, contract.Member, began, len(all))
	if err != nil {
		return nil, err
	}
	replies, err := s.published(ctx, contract.Storage, began, len(all))
	if err != nil {
		return nil, err
	}
	var moments [][]time.Time
	for _, j := range all {
		m := members[j.signup]
		passed := []time.Time{j.sent, sagas[j.signup].Created, commands[m], storages[m].Created, storages[m].Updated,
			replies[m], sagas[j.signup].Updated, j.seen}
		if slices.ContainsFunc(passed, time.Time.IsZero) {
			return nil, fmt.Errorf("a station of signup %s is not known", j.signup)
		}
		moments = append(moments, passed)
	}
	return moments, nil
}

// published returns when the broker stored the essential events of a service, by member, from the time began on. n is
// the expected number of members.
func (s *stack) published(
	ctx context.Context, by contract.Service, began time.Time, n int,
) (map[string]time.Time, error) {
	nc, js, err := connect(s.settings["NATS_URL"])
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stream, err := js.Stream(ctx, contract.Stream(by, contract.Essential))
	if err != nil {
		return nil, err
	}
	last := stream.CachedInfo().State.LastSeq
	c, err := stream.OrderedConsumer(ctx,
		jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &began})
	if err != nil {
		return nil, err
	}
	found := make(map[string]time.Time, n)
	for {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		found[m.Headers().Get(contract.HeaderSubject)] = meta.Timestamp
		if meta.Sequence.Stream >= last {
			return found, nil
		}
	}
}

// costs describes the processor time that each what, for example a saga, costs each process at full speed.
func costs(after, before usage, rate float64, what string) string {
	cores := float64(runtime.NumCPU())
	var out strings.Builder
	fmt.Fprintf(&out,
		"Processor time at full speed, %s %ss/s on %.0f cores:\n\n| process | core-µs per %[2]s "+
			"|\n|---|--:|\n", number(rate), what, cores)
	rest := cores
	for i, p := range after.parties {
		busy := after.cores(i, before)
		rest -= busy
		name := p.name
		if i == 0 {
			name = "load generator"
		}
		fmt.Fprintf(&out, "| %s | %s |\n", name, number(busy/rate*1e6))
	}
	fmt.Fprintf(&out, "| idle, the kernel and other processes | %s |\n| sum | %s |", number(rest/rate*1e6),
		number(cores/rate*1e6))
	return out.String()
}
