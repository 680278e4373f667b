package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// A way is one of the ways to do a case's work: ours, or a peer's.
type way struct {
	name string
	run  func(n int) (time.Duration, error) // does it n times; what it returns is what n of them took
}

// ours is the name of our way where a case has only one.
const ours = "shm"

// Row is what was measured of one way.
type Row struct {
	Name    string    `json:"name"`
	Samples []float64 `json:"samples"` // nanoseconds per operation, one per round
	Median  float64   `json:"median"`
	Low     float64   `json:"p10"`
	High    float64   `json:"p90"`
}

func newRow(name string, samples []float64) Row {
	return Row{name, samples, quantile(samples, 0.5), quantile(samples, 0.1), quantile(samples, 0.9)}
}

// Verdict compares one figure of ours with what was asked for.
type Verdict struct {
	Ours     string  `json:"ours"`
	Peer     string  `json:"peer,omitempty"` // "" for a bound that needs no peer
	Ratio    float64 `json:"ratio"`          // so that at most Limit (or at least, if Faster) is good
	Limit    float64 `json:"limit"`
	Faster   bool    `json:"faster,omitempty"` // Ratio is peer/ours, not ours/peer
	Unit     string  `json:"unit"`             // "×", "ns", "ms", "MiB" or "allocations"
	Holds    bool    `json:"holds"`
	OursTime float64 `json:"ours_median,omitempty"`
	PeerTime float64 `json:"peer_median,omitempty"`
}

// Result is one case.
type Result struct {
	ID       string     `json:"id"`
	Title    string     `json:"title"`
	Text     string     `json:"text"` // what is measured, and where the time goes
	Rows     []Row      `json:"rows,omitempty"`
	Facts    [][]string `json:"facts,omitempty"` // a table whose first row is its head, for what is no time per operation
	Verdicts []Verdict  `json:"verdicts,omitempty"`
	Missing  []string   `json:"missing,omitempty"` // peers that could not be had, and why
	plots    []figure
}

// rounds measures all ways in turns: one round of each, then the next round,
// each round starting with another one. A machine that is slow for a while is
// then slow for all of them, which is what makes a ratio worth printing on a
// machine that others use too.
func (e *env) rounds(ctx context.Context, ways []way) ([]Row, error) {
	n := make([]int, len(ways))
	for i, w := range ways {
		// The first calls warm caches up and find out how many fill a round.
		n[i] = 1
		for {
			took, err := w.run(n[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			if took >= e.round/2 || n[i] >= 1<<30 {
				break
			}
			n[i] = max(2*n[i], int(float64(n[i])*min(100, 0.8*float64(e.round)/float64(took+1))))
		}
	}
	samples := make([][]float64, len(ways))
	for r := range e.count {
		for k := range ways {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			i := (r + k) % len(ways)
			took, err := ways[i].run(n[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ways[i].name, err)
			}
			samples[i] = append(samples[i], float64(took.Nanoseconds())/float64(n[i]))
			// What a way left to do for others, such as a tracker's reading
			// of its pipe, shall not fall into the next one's round.
			time.Sleep(e.settle)
		}
	}
	rows := make([]Row, len(ways))
	for i, w := range ways {
		rows[i] = newRow(w.name, samples[i])
	}
	return rows, nil
}

// atMost: ours takes at most limit times as long as the peer's.
func (r *Result) atMost(our, peer string, limit float64) { r.compare(our, peer, limit, false) }

// faster: ours is at least limit times as fast as the peer's.
func (r *Result) faster(our, peer string, limit float64) { r.compare(our, peer, limit, true) }

func (r *Result) compare(our, peer string, limit float64, faster bool) {
	a, b := r.row(our), r.row(peer)
	if a == nil || b == nil {
		return // Missing says why
	}
	v := Verdict{Ours: our, Peer: peer, Ratio: ratio(a, b, faster), Limit: limit, Faster: faster, Unit: "×",
		OursTime: a.Median, PeerTime: b.Median}
	v.Holds = faster && v.Ratio >= limit || !faster && v.Ratio <= limit
	r.Verdicts = append(r.Verdicts, v)
}

// ratio is a/b, or b/a if faster. Each round's two figures were taken within
// the same second, so the median of their ratios is steadier than the ratio of
// the medians.
func ratio(a, b *Row, faster bool) float64 {
	ratios := make([]float64, len(a.Samples))
	for i := range ratios {
		ratios[i] = a.Samples[i] / b.Samples[i]
		if faster {
			ratios[i] = 1 / ratios[i]
		}
	}
	return quantile(ratios, 0.5)
}

// below: a figure of ours is at most limit.
func (r *Result) below(what string, value, limit float64, unit string) {
	r.Verdicts = append(r.Verdicts, Verdict{Ours: what, Ratio: value, Limit: limit, Unit: unit, Holds: value <= limit})
}

func (r *Result) row(name string) *Row {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	return nil
}

// quantile returns the q-quantile of s, between its neighbours where it falls
// between two; NaN if s is empty.
func quantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	s = slices.Sorted(slices.Values(s))
	at := q * float64(len(s)-1)
	lo := int(at)
	if lo == len(s)-1 {
		return s[lo]
	}
	return s[lo] + (at-float64(lo))*(s[lo+1]-s[lo])
}

// loop makes a way of a function that does the work once.
func loop(name string, f func() error) way {
	return way{name, func(n int) (time.Duration, error) {
		start := time.Now()
		for range n {
			if err := f(); err != nil {
				return 0, err
			}
		}
		return time.Since(start), nil
	}}
}

// timed is loop for work of which only a part is to be counted: f says how
// long that part took.
func timed(name string, f func() (time.Duration, error)) way {
	return way{name, func(n int) (took time.Duration, err error) {
		for range n {
			d, err := f()
			if err != nil {
				return 0, err
			}
			took += d
		}
		return took, nil
	}}
}
