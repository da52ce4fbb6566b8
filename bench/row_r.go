package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// warmShare is the part of a backlog that is drained before the clock starts, for systems and limit alike.
const warmShare = 50 // one in this many

// rowR measures how fast a backlog is published.
func (b *bench) rowR(ctx context.Context) error {
	b.section().method = fmt.Sprintf(
		"%d repetitions, backlog of %s events of %d bytes with 8 headers; the clock starts when 1/%d of them has "+
			"left. The limit publishes messages of the same "+
			"headers and size in atomic batches of %d, each after the acknowledgement of the one before. A peer "+
			"drains as many of %s events as it manages in about %s",
		b.reps, number(float64(b.backlog)), payloadSize, warmShare, rawBatch, number(float64(b.peerBacklog)),
		b.peerDrain)
	systems := []maker{rawMaker, outboxMaker}
	if b.peers {
		systems = append(systems, riverTuned, riverDefault, watermillMaker)
	}
	rates, sizes := make([]series, len(systems)), make([]int, len(systems))
	for rep := range b.reps {
		err := rotated(rep, len(systems), func(i int) (err error) {
			m := systems[i]
			switch {
			case i < 2:
				sizes[i] = b.backlog
			case sizes[i] == 0:
				if sizes[i], err = b.manageable(ctx, m); err != nil {
					return err
				}
			}
			rate, err := b.drainRate(ctx, m, sizes[i], sizes[i]/warmShare)
			rates[i] = append(rates[i], rate)
			b.note("   %d/%d: %s %s msg/s", rep+1, b.reps, m.name, number(rate))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.drain = rates[1].median()
	b.report(line{what: "drain; limit: raw atomic batches", unit: "msg/s", limit: rates[0], value: rates[1],
		goal: atLeast(0.85)})
	for i, m := range systems[2:] {
		l := line{what: "drain; limit: " + m.name + ", " + number(float64(sizes[i+2])) + " events", unit: "msg/s",
			limit: rates[i+2], value: rates[1]}
		if m.name == riverTuned.name {
			l.goal = atLeast(10)
		}
		b.report(l)
	}
	return nil
}

// manageable returns how many events a peer can drain in the given time.
func (b *bench) manageable(ctx context.Context, m maker) (int, error) {
	const probe = 1000
	rate, err := b.drainRate(ctx, m, probe, 0)
	return min(b.peerBacklog, max(probe, int(rate*b.peerDrain.Seconds()))), err
}

// drainRate fills a backlog and returns how many events per second are drained, counted once at least warm of
// them are.
func (b *bench) drainRate(ctx context.Context, m maker, n, warm int) (rate float64, err error) {
	err = b.at(ctx, m, func(s *site, sys system) error {
		if err := sys.fill(ctx, n); err != nil {
			return err
		}
		if _, err := b.admin.Exec(ctx, checkpointSQL); err != nil {
			return err
		}
		before, began := b.usage(b.parties()), time.Now()
		err := b.profiled("R-"+m.name, func() error {
			return relaying(ctx, sys, func() (err error) {
				gone := 0
				if warm > 0 {
					if err := s.drained(ctx, warm); err != nil {
						return err
					}
					began = time.Now()
					if gone, err = s.stored(ctx); err != nil {
						return err
					}
				}
				err = s.drained(ctx, n)
				rate = float64(n-gone) / time.Since(began).Seconds()
				return err
			})
		})
		if err != nil {
			return err
		}
		b.note("   %s: %s", m.name, b.usage(b.parties()).since(before))
		return s.audit(ctx)
	})
	return rate, err
}

// needDrain measures the rate of row R unless it is known.
func (b *bench) needDrain(ctx context.Context) (err error) {
	if b.drain == 0 {
		b.drain, err = b.drainRate(ctx, outboxMaker, b.backlog, b.backlog/warmShare)
	}
	return err
}

// rowD repeats R and L with the broker's default sync interval. If the machine loses power, such a broker may
// lose what it has acknowledged in the last two minutes.
func (b *bench) rowD(ctx context.Context) error {
	cmd, err := asChild(childNATS, filepath.Join(b.servers.dir, "relaxed"))
	if err != nil {
		return err
	}
	relaxed, err := launch(ctx, "NATS_URL=", cmd)
	if err != nil {
		return err
	}
	servers, config, drain := *b.servers, b.config, b.drain
	b.servers.nats, b.config = relaxed, b.short()
	if err = b.rowR(ctx); err == nil {
		for i := range b.section().lines {
			b.section().lines[i].goal = goal{} // the goal of a drain is for a broker that loses nothing
		}
		method := b.section().method
		err = b.rowL(ctx)
		b.section().method = "the broker at its **default sync interval of two minutes**. Drain: " + method +
			". Latency: " + b.section().method
	}
	*b.servers, b.config, b.drain = servers, config, drain
	return errors.Join(err, relaxed.close())
}
