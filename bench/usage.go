package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is what Linux counts processor time in, on every architecture.
const ticksPerSecond = 100

// usage is the processor time that each party has used, in seconds.
type usage struct {
	at                    time.Time
	bench, postgres, nats float64
}

// usage reads the processor times of this process and of the servers.
func (b *bench) usage() usage {
	seconds, parents := processes()
	tree := func(root int) (sum float64) {
		for pid := range seconds {
			for p := pid; p > 1; p = parents[p] {
				if p == root {
					sum += seconds[pid]
					break
				}
			}
		}
		return sum
	}
	return usage{at: time.Now(), bench: seconds[os.Getpid()], postgres: tree(b.servers.postgres.pid()), nats: tree(b.servers.nats.pid())}
}

// since tells how many cores each party kept busy.
func (u usage) since(before usage) string {
	d := u.at.Sub(before.at).Seconds()
	return fmt.Sprintf("busy cores: this process %.2f, Postgres %.2f, NATS %.2f",
		(u.bench-before.bench)/d, (u.postgres-before.postgres)/d, (u.nats-before.nats)/d)
}

// processes returns the processor time of each process, its ended children
// included but for this one's, and its parent.
func processes() (seconds map[int]float64, parents map[int]int) {
	seconds, parents = map[int]float64{}, map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		_, rest, _ := strings.Cut(string(text), ") ") // the name may hold spaces, but hardly this
		fields := strings.Fields(rest)
		if len(fields) < 15 {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		counted := fields[11:15] // user and system, own and of ended children
		if pid == os.Getpid() {
			counted = fields[11:13]
		}
		for _, f := range counted {
			ticks, _ := strconv.ParseFloat(f, 64)
			seconds[pid] += ticks / ticksPerSecond
		}
	}
	return seconds, parents
}
