package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/shmtest"
)

// served is a shm serve in a process of its own, and what it printed.
type served struct {
	*shmtest.Process
	text    string
	address string
	python  string // the lines to paste
	metrics string
	client  []string // flags for shm manager
}

func startServe(t *testing.T, args ...string) *served {
	t.Helper()
	s := &served{Process: shmtest.Start(t, "serve", args...)}
	for !strings.Contains(s.text, "^C ends it") {
		s.text += s.Line() + "\n"
	}
	find := func(pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(s.text); m != nil {
			return m[1]
		}
		return ""
	}
	s.address, s.metrics = find(`(?m)^address: +(.*)$`), find(`(?m)^metrics: +(.*)$`)
	s.python = find(`(?s)\n# Python\n(.*?\n)\n`)
	s.client = strings.Fields(find(`(?m)^shm manager ls (.*)$`))
	if s.address == "" || len(s.client) == 0 {
		t.Fatalf("shm serve printed\n%s", s.text)
	}
	return s
}

// manager runs a verb of shm manager at s.
func (s *served) manager(t *testing.T, verb string, args ...string) (stdout string) {
	t.Helper()
	status, stdout, errs := run(t, "", append(append([]string{"manager", verb}, s.client...), args...)...)
	if status != 0 {
		t.Fatalf("manager %s: status %d: %s", verb, status, errs)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// end has s end by a signal, or by a client where there are none, and checks
// that it says want.
func (s *served) end(t *testing.T, sig os.Signal, want string) (stderr string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		s.manager(t, "shutdown")
	} else if err := s.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	s.Expect(want)
	status, stderr := s.WaitAll()
	if status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	return stderr
}

// The lines that serve prints connect every Python, at every kind of address
// and with every kind of key.
func TestServePython(t *testing.T) {
	pythons := shmtest.Pythons(t)
	dir := shmtest.TempDir(t)
	t.Setenv("SHM_TEST_KEY", "from the environment é\n")
	kinds := [][]string{nil, {"--address", "tcp::0", "--authkey-env", "SHM_TEST_KEY"}}
	if runtime.GOOS != "windows" {
		kinds = append(kinds, []string{"--address", "unix:" + filepath.Join(dir, "a 'socket'"), "--authkey-file", filepath.Join(dir, "the 'key'"), "--create-key"})
	}
	if runtime.GOOS == "linux" {
		kinds = append(kinds, []string{"--address", "unix:@" + shmtest.Name(t)})
	}
	var servers []*served
	var program strings.Builder
	program.WriteString(`
import sys
from multiprocessing import resource_tracker
from multiprocessing.managers import dispatch
def ask(*args):
    c = manager._Client(manager._address, authkey=manager._authkey)
    try:
        return dispatch(c, None, *args)
    finally:
        c.close()
`)
	for i, args := range kinds {
		s := startServe(t, args...)
		servers = append(servers, s)
		program.WriteString(s.python)
		program.WriteString(`assert ask("list_segments") == []` + "\n")
		if i > 0 {
			continue
		}
		program.WriteString(`
block, items = manager.SharedMemory(100), manager.ShareableList([1, "a"])
assert ask("list_segments") == [block.name, items.shm.name], ask("list_segments")
for b in block, items.shm:
    if sys.platform != "win32":
        resource_tracker.unregister(b._name, "shared_memory")  # it is the manager's
    b.close()
    ask("release_segment", (b.name,))
assert ask("list_segments") == []
`)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*shmtest.Patience)
	defer cancel()
	for _, py := range pythons {
		t.Run(py.String(), func(t *testing.T) {
			if out, err := py.Cmd(ctx, "-c", program.String()).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s\nfrom\n%s", err, out, program.String())
			}
		})
	}
	for _, s := range servers {
		s.end(t, syscall.SIGTERM, "ended; there were no blocks to remove")
	}
}

// A signal ends it, and its blocks with it. What it made for itself goes as well.
func TestServeSignals(t *testing.T) {
	blockDir(t) // Windows has neither signals nor blocks that stay
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		s := startServe(t)
		names := []string{s.manager(t, "create", "4K"), s.manager(t, "create", "--list", "1", "a"), s.manager(t, "create", "64K")}
		for _, name := range names {
			shmtest.Watch(name)
		}
		if err := shm.Unlink(names[1]); err != nil {
			t.Fatal(err)
		}
		home := filepath.Dir(strings.TrimPrefix(s.address, "unix:"))
		if fi, err := os.Stat(filepath.Join(home, "authkey")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the key: %v, %v", fi, err)
		}
		errs := s.end(t, sig, "ended; 2 blocks removed")
		if want := "note: gone before, or another's by now: " + names[1] + "\n"; errs != want {
			t.Errorf("stderr %q, want %q", errs, want)
		}
		for _, name := range names {
			if _, err := shm.Stat(name); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
		if _, err := os.Stat(home); err == nil {
			t.Errorf("%s is still there", home)
		}
	}
}

// A server that was killed leaves a socket at which nobody listens, and the
// next one takes its place. The sweep takes its blocks.
func TestServeKilled(t *testing.T) {
	blockDir(t)
	dir := shmtest.TempDir(t)
	args := []string{"--address", "unix:" + filepath.Join(dir, "s"), "--authkey-file", filepath.Join(dir, "k"), "--create-key"}
	s := startServe(t, args...)
	name := s.manager(t, "create", "4K")
	shmtest.Watch(name)
	s.Kill()
	status, _, errs := run(t, "", append([]string{"manager", "ls"}, s.client...)...)
	if status != exitFailure || !strings.Contains(errs, "nobody listens there\ntry: shm serve --address unix:") {
		t.Errorf("status %d, %s", status, errs)
	}
	s = startServe(t, args...)
	s.end(t, syscall.SIGTERM, "ended; there were no blocks to remove")
	// Another test's sweep may be at it, and ours passes over what that has locked.
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		if status, _, errs := run(t, "", "prune"); status != 0 {
			t.Error(errs)
		}
		if _, err := shm.Stat(name); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", name)
		}
	}
}

// scrape reads the metrics.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, res.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// metric returns a value, of the label's value if one is given, -1 if there is
// none.
func metric(families map[string]*dto.MetricFamily, name, label string) float64 {
	for _, m := range families[name].GetMetric() {
		if len(m.GetLabel()) == 0 && label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

func TestServeMetrics(t *testing.T) {
	blockDir(t)
	shmtest.Deadline(t, 2*shmtest.Patience)
	defer http.DefaultClient.CloseIdleConnections()
	s := startServe(t, "--metrics", ":0", "--address", "tcp:127.0.0.1:0")
	if !strings.HasPrefix(s.metrics, "http://127.0.0.1:") {
		t.Errorf("metrics at %s, which is not this machine alone", s.metrics)
	}
	shmtest.Watch(s.manager(t, "create", "4K"))
	shmtest.Watch(s.manager(t, "create", "12K"))
	s.manager(t, "ls")

	address := strings.TrimPrefix(s.address, "tcp:")
	for range 2 {
		if _, err := conn.Dial(t.Context(), s.address, []byte("wrong"), nil); !errors.Is(err, conn.ErrAuth) {
			t.Errorf("with a wrong key: %v", err)
		}
	}
	for _, words := range []string{"", "\xff\xff\xff\xf0", "GET / HTTP/1.1\r\n\r\n"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, words)
		if words != "" {
			io.Copy(io.Discard, c) // until it hangs up
		}
		c.Close()
	}

	want := map[[2]string]float64{
		{"shm_manager_blocks"}:                              2,
		{"shm_manager_bytes"}:                               16 << 10,
		{"shm_manager_connections"}:                         0,
		{"shm_manager_connections_total"}:                   3, // one each
		{"shm_manager_requests_total", "track_segment"}:     2,
		{"shm_manager_requests_total", "list_segments"}:     1,
		{"shm_manager_requests_total", "dummy"}:             3,
		{"shm_manager_handshakes_refused_total", "auth"}:    2,
		{"shm_manager_handshakes_refused_total", "frame"}:   1,
		{"shm_manager_handshakes_refused_total", "size"}:    1,
		{"shm_manager_handshakes_refused_total", "hangup"}:  1,
		{"shm_manager_handshakes_refused_total", "busy"}:    0,
		{"shm_manager_handshakes_refused_total", "timeout"}: 0,
		{"shm_manager_handshakes_refused_total", "other"}:   0,
	}
	// Peers learn that they are refused, or have an answer, before it is counted.
	for end := time.Now().Add(shmtest.Patience); ; {
		families, wrong := scrape(t, s.metrics), ""
		for key, value := range want {
			if got := metric(families, key[0], key[1]); got != value {
				wrong += fmt.Sprintf("%v is %v, want %v\n", key, got, value)
			}
		}
		for _, name := range []string{"go_goroutines", "process_open_fds"} {
			if runtime.GOOS == "linux" && metric(families, name, "") <= 0 {
				wrong += name + " is missing\n"
			}
		}
		if wrong == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal(wrong)
		}
	}
	// The end of the manager by a client is the end of the metrics.
	s.manager(t, "shutdown")
	s.Expect("ended; 2 blocks removed")
	if status := s.Wait(); status != 0 {
		t.Errorf("status %d: %s", status, s.Stderr())
	}
}

// Each reason for which a peer is refused has its counter.
func TestServeReasons(t *testing.T) {
	f := newFigures()
	for i, err := range []error{os.ErrDeadlineExceeded, conn.ErrBusy, conn.ErrTooLarge, conn.ErrFrame, conn.ErrAuth, io.ErrUnexpectedEOF, syscall.EMFILE} {
		for range i + 1 {
			f.refuse(nil, fmt.Errorf("conn: accept: handshake: %w", err))
		}
	}
	for i, reason := range []string{"timeout", "busy", "size", "frame", "auth", "hangup", "other"} {
		var m dto.Metric
		if err := f.refused.WithLabelValues(reason).Write(&m); err != nil {
			t.Fatal(err)
		}
		if got := m.GetCounter().GetValue(); got != float64(i+1) {
			t.Errorf("%s: %v, want %d", reason, got, i+1)
		}
	}
}

// Nobody who could connect has learned how: it ends.
func TestServeUnheard(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for _, args := range [][]string{{"serve"}, {"serve", "--json", "--metrics", "0"}} {
		var errs strings.Builder
		if status := Run(t.Context(), args, nil, failing{}, &errs); status != exitFailure || !strings.Contains(errs.String(), "disk on fire") {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
	}
}

func TestServeLines(t *testing.T) {
	file, env := authKey{file: "/run/it's"}, authKey{env: "KEY"}
	for _, c := range []struct {
		address string
		key     authKey
		client  string
		python  string // part of the lines; "" for none
	}{
		{"unix:/run/s", file, "unix:/run/s", `(address='/run/s', authkey=open("/run/it's", 'rb').read().rstrip(b'\r\n'))`},
		{"unix:/run/it's\n", env, "unix:/run/it's\n", `(address="/run/it's\n", authkey=os.fsencode(os.environ['KEY']).rstrip(b'\r\n'))`},
		{"tcp:127.0.0.1:5000", file, "tcp:127.0.0.1:5000", `(address=('127.0.0.1', 5000), `},
		{"tcp:0.0.0.0:5000", file, "tcp:127.0.0.1:5000", `(address=('127.0.0.1', 5000), `},
		{"tcp:[::]:5000", file, "tcp:127.0.0.1:5000", `(address=('127.0.0.1', 5000), `},
		{"tcp:localhost:5000", file, "tcp:localhost:5000", `(address=('localhost', 5000), `},
		{"tcp:[::1]:5000", file, "tcp:[::1]:5000", ""},
	} {
		if runtime.GOOS == "windows" && strings.HasPrefix(c.address, "unix:") {
			continue // paths get a drive
		}
		client := clientAddress(c.address)
		if client != c.client {
			t.Errorf("%q: clients connect to %q, want %q", c.address, client, c.client)
		}
		lines := pythonConnect(client, c.key)
		if c.python == "" && lines != "" || runtime.GOOS != "windows" && !strings.Contains(lines, c.python) {
			t.Errorf("%q: no %s in\n%s", c.address, c.python, lines)
		}
	}
	if runtime.GOOS == "linux" {
		if lines := pythonConnect("unix:@a'b", env); !strings.Contains(lines, `(address=b"\x00a'b", `) {
			t.Errorf("abstract: %s", lines)
		}
	}
}
