package main

import "time"

// The estimates below are the configured durations plus the overhead, as measured on two cores. Backlogs are
// estimated per event.
const (
	around     = 1200 * time.Millisecond // a new site, its audit and its end
	perEvent   = 35 * time.Microsecond   // filled, drained and audited
	perMail    = 150 * time.Microsecond
	stackStart = 10 * time.Second
	generating = 60 * time.Second // of A's database
	perVisit   = time.Second      // one request for each page, alone and during signups
)

func times(n int, d time.Duration) time.Duration { return time.Duration(n) * d }

func (c config) takesW() time.Duration {
	// Events written in the slices are published and audited.
	return times(c.reps+2, 4*c.slice*6/5+around+c.slice)
}

func (c config) takesW2() time.Duration {
	return stackStart + times(c.reps+2, 2*c.slice*6/5+around+c.slice/2)
}

func (c config) takesH() time.Duration {
	return stackStart + times(c.reps, times(len(owasp), c.slice)+2*c.slice+c.slice/2)
}

func (c config) takesR() time.Duration {
	d := times(c.reps, 2*around+times(c.backlog, perEvent))
	if c.peers {
		d += times(3*(c.reps+1), around+c.peerDrain/2)
	}
	return d
}

func (c config) takesL() time.Duration {
	systems := 3
	if c.peers {
		systems += 3
	}
	return times(c.reps*systems, c.flow+warmUp+around)
}

func (c config) takesD() time.Duration { c = c.short(); return c.takesR() + c.takesL() }

func (c config) takesN() time.Duration {
	return times(c.reps+2, 3*c.slice*6/5+around+c.slice/2)
}

func (c config) takesQ() time.Duration {
	return times(c.reps, c.calm+around+times(c.bigBacklog, perEvent))
}

func (c config) takesB() time.Duration {
	d := 2 * (c.pin*6/5 + around)
	if c.peers {
		d += 4 * (c.peerPin*6/5 + around)
	}
	return d
}

func (c config) takesE() time.Duration {
	d := stackStart + c.sustain + 3*c.steps + times(2*c.reps, c.gentle+around)
	if c.peers {
		d += times(2*c.reps, c.steps+c.gentle+2*around)
	}
	return d
}

func (c config) takesP() time.Duration {
	return 2*stackStart + times(c.mails, perMail) + times(2*c.reps, c.gentle)
}

func (c config) takesA() time.Duration { return stackStart + generating + times(c.visits, perVisit) }
