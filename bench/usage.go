package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is Linux's unit of processor time, on every architecture.
const ticksPerSecond = 100

// party is a user of processor time: a process with all its children.
type party struct {
	name string
	pid  int
}

// postgresParty is the index of Postgres among the parties.
const postgresParty = 1

// parties returns the parties of a row without services.
func (b *bench) parties() []party {
	return []party{{"this process", os.Getpid()}, {"Postgres", b.servers.postgres.pid()},
		{"NATS", b.servers.nats.pid()}}
}

// usage is the processor time that each party has used so far, in seconds.
type usage struct {
	at      time.Time
	parties []party
	seconds []float64
}

// usage reads the processor times. This process's children count as their own parties.
func (b *bench) usage(parties []party) usage {
	u := usage{at: time.Now(), parties: parties}
	seconds, parents := processes()
	self := os.Getpid()
	for _, party := range parties {
		var sum float64
		for pid := range seconds {
			for p := pid; p > 1; p = parents[p] {
				if p == party.pid {
					sum += seconds[pid]
					break
				}
				if party.pid == self {
					break
				}
			}
		}
		u.seconds = append(u.seconds, sum)
	}
	return u
}

// cores returns how many cores a party kept busy since an earlier reading.
func (u usage) cores(i int, before usage) float64 {
	return (u.seconds[i] - before.seconds[i]) / u.at.Sub(before.at).Seconds()
}

// since describes how many cores each party kept busy.
func (u usage) since(before usage) string {
	var busy []string
	for i, party := range u.parties {
		busy = append(busy, party.name+" "+number(u.cores(i, before)))
	}
	return "busy cores: " + strings.Join(busy, ", ")
}

// processes returns each process's processor time and parent. The time includes ended children, except for this
// process.
func processes() (seconds map[int]float64, parents map[int]int) {
	seconds, parents = map[int]float64{}, map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the process has just ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		_, rest, _ := strings.Cut(string(text), ") ") // the name may hold spaces, but is unlikely to hold this
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
