package market_test

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestMarket(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("topics are for Linux only")
	}
	program := shmtest.Programs(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			const n = 5000
			name := shmtest.Name(t)
			exchange := shmtest.StartCommand(t, exec.Command(program("exchange"), "-name", name, "-quotes", fmt.Sprint(n), "-rate", fmt.Sprint(n), "-subscribers", "3"))
			exchange.Expect(fmt.Sprintf("%d quotes in %s, %d a second, when 3 subscribers are there", n, name, n))
			follower := shmtest.StartCommand(t, exec.Command(program("follower"), "-name", name))
			display := shmtest.StartCommand(t, py.Cmd(t.Context(), "display.py", name))
			slow := shmtest.StartCommand(t, py.Cmd(t.Context(), "display.py", "--slow", name))
			line := exchange.Line()
			var published, received, missed int
			if _, err := fmt.Sscanf(line, "%d published; all subscribers together received %d and missed %d", &published, &received, &missed); err != nil || published != n {
				t.Error(line, err)
			}
			for _, p := range []*shmtest.Process{follower, display, slow} {
				line := p.Line()
				for strings.HasPrefix(line, "missed ") {
					line = p.Line()
				}
				_, counts, _ := strings.Cut(line, ": ")
				var first int
				if _, err := fmt.Sscanf(counts, "received %d from %d on, missed %d", &received, &first, &missed); err != nil || first+received+missed != n {
					t.Error(line, err)
				}
				if p == slow && missed == 0 {
					t.Error("the slow one missed nothing: ", line)
				}
				if p != follower && !strings.Contains(line, fmt.Sprintf("; after %d quotes: ", n)) {
					t.Error(line)
				}
			}
			for _, p := range []*shmtest.Process{exchange, follower, display, slow} {
				if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
					t.Errorf("%v ends with %d: %s", p.Cmd.Args, status, stderr)
				}
			}
		})
	}
}
