package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/worker"
)

// TestMain lets the children that cases start be this test program.
func TestMain(m *testing.M) {
	worker.Main()
	if len(os.Args) > 1 && os.Args[1] == roleArg {
		if err := role(os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestQuantile(t *testing.T) {
	s := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 1. / 3: 2} {
		if got := quantile(s, q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %g of %v is %g, want %g", q, s, got, want)
		}
	}
	if !math.IsNaN(quantile(nil, 0.5)) {
		t.Error("the median of nothing is a number")
	}
}

// The ratio is taken within each round: a slow moment of the machine, which
// the third round is, must not decide.
func TestRatioIsOfRounds(t *testing.T) {
	r := Result{Rows: []Row{newRow(ours, []float64{10, 10, 1000}), newRow("C", []float64{5, 5, 500})}}
	r.atMost(ours, "C", 1.9)
	r.atMost(ours, "C", 2)
	r.faster("C", ours, 2)
	r.faster("C", ours, 2.1)
	r.atMost(ours, "nobody", 1)
	if len(r.Verdicts) != 4 {
		t.Fatalf("%d verdicts, want 4: a peer that is missing has none", len(r.Verdicts))
	}
	for i, holds := range []bool{false, true, true, false} {
		if v := r.Verdicts[i]; v.Ratio != 2 || v.Holds != holds {
			t.Errorf("verdict %d: ratio %g, holds %t, want 2, %t", i, v.Ratio, v.Holds, holds)
		}
	}
	if misses := (Report{Results: []*Result{&r}}).Misses(); len(misses) != 2 {
		t.Errorf("misses %q, want two", misses)
	}
}

// A bound of none at all is no share of anything, but has its place in the chart.
func TestBoundOfNone(t *testing.T) {
	for value, want := range map[float64]string{0: goodColor, 2: badColor} {
		var r Result
		r.below(ours, value, 0, "allocations")
		if r.Verdicts[0].Holds != (value == 0) {
			t.Errorf("at most 0 holds for %g: %t", value, r.Verdicts[0].Holds)
		}
		svg := string(targetChart([]*Result{&r}).svg)
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || !strings.Contains(svg, want) {
			t.Errorf("the chart for %g:\n%s", value, svg)
		}
	}
}

func TestRoundsTakeTurns(t *testing.T) {
	var order strings.Builder
	mark := func(c byte) way {
		return way{string(c), func(n int) (time.Duration, error) {
			order.WriteByte(c)
			return time.Duration(n) * time.Second, nil
		}}
	}
	e := &env{count: 3, round: time.Second}
	rows, err := e.rounds(t.Context(), []way{mark('A'), mark('B'), mark('C')})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := order.String(), "ABC"+"ABC"+"BCA"+"CAB"; got != want { // first the warming up
		t.Errorf("order %s, want %s", got, want)
	}
	if rows[1].Median != 1e9 {
		t.Errorf("median %g ns per operation, want 1e9", rows[1].Median)
	}
}

// A machine without compilers has no such peers, and is told why; nothing is fetched or built
// that was not asked for.
func TestPeersThatCannotBeHad(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	e := &env{tmp: t.TempDir(), prefix: "shmbench-none-"}
	var r Result
	ways, stop := e.others(t.Context(), &r, "echo", queueMakers)
	stop()
	if len(ways) > 0 || len(r.Missing) != len(queueMakers) {
		t.Fatalf("%d ways, missing %q", len(ways), r.Missing)
	}
	for i, m := range queueMakers {
		want := m.name + ": not built: run it once with -peers"
		if !m.kept {
			want = m.name + `: exec: "sh": executable file not found in $PATH`
		}
		if got := r.Missing[i]; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What a compiler says is told by the line that matters, and an end that fails by what it said.
func TestPeersThatFail(t *testing.T) {
	e := &env{tmp: t.TempDir(), prefix: "shmbench-fail-"}
	fail := maker{name: "Boost", build: "echo it begins; echo an error: no boost; exit 1"}
	if _, err := fail.folder(t.Context(), e); err == nil || err.Error() != "exit status 1: an error: no boost" {
		t.Error(err)
	}
	fail = maker{name: "Boost", build: "true", run: "echo no memory >&2; false", ways: []makerWay{{label: "it"}}}
	var r Result
	ways, stop := e.others(t.Context(), &r, "echo", []maker{fail})
	stop()
	if len(ways) > 0 || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "no memory") {
		t.Errorf("%d ways, missing %q", len(ways), r.Missing)
	}
	if left, err := os.ReadDir(e.tmp); err != nil || len(left) != 1 {
		t.Errorf("%v left, %v", left, err)
	}
}

// A whole run, as short as can be: every case and every peer there is works,
// the document names its plots, and nothing stays in shared memory.
func TestWholeRun(t *testing.T) {
	docs := t.TempDir()
	var out, errs bytes.Buffer
	if err := Run(t.Context(), []string{"-quick", "-rounds", "1", "-json", "-docs", docs}, &out, &errs); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	var report Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != len(cases) {
		t.Errorf("%d results of %d cases", len(report.Results), len(cases))
	}
	page, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	plots, err := filepath.Glob(filepath.Join(docs, "benchmarks", "*.svg"))
	if err != nil || len(plots) < len(cases) {
		t.Errorf("%d plots (%v), want one of each case at least", len(plots), err)
	}
	for _, p := range plots {
		if !bytes.Contains(page, []byte("(benchmarks/"+filepath.Base(p)+")")) {
			t.Errorf("the document does not show %s", filepath.Base(p))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(shmDir, "shmbench-*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
}
