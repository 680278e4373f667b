package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/demo"
	"github.com/sharedmem/shm/internal/shmtest"
)

// runDemo runs the verb and returns what it wrote and its exit status.
func runDemo(ctx context.Context, args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = Run(ctx, append([]string{"demo"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), status
}

// textTree is a folder with 1 200 lines and 3 601 words in two files.
func textTree(t *testing.T) string {
	root := shmtest.TempDir(t)
	for name, text := range map[string]string{"a": strings.Repeat("sum += i\n", 1200), "b": "last"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDemo(t *testing.T) {
	noEmulator(t)
	t.Setenv(asCommand, "1") // for the workers, who are this program
	root := textTree(t)
	out, errs, status := runDemo(t.Context(), "--no-python", "--workers", "2", root)
	if status != 0 || errs != "" {
		t.Fatalf("status %d, %s", status, errs)
	}
	for _, want := range []string{
		"2 files, ", "in one block ", "shared by 3 processes",
		"worker 2  Go", "together", "1 200", "3 601", "sum", "Checked:", "through pipes", "removed now",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "Python") {
		t.Errorf("--no-python, and yet:\n%s", out)
	}

	args := []string{"--json", "--no-python", "--workers", "2", root}
	if runtime.GOOS != "windows" { // where blocks are in one place only
		args = append(args, "--dir", privateDir(t))
	}
	if out, errs, status = runDemo(t.Context(), args...); status != 0 || errs != "" {
		t.Fatalf("status %d, %s", status, errs)
	}
	var r demo.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(r.Workers) != 2 || r.Together.Lines != 1200 || r.Together.Words != 3601 || r.Compare.Ratio <= 0 || r.NoPython == "" {
		t.Errorf("got %s", out)
	}
}

func TestDemoErrors(t *testing.T) {
	root := textTree(t)
	empty := shmtest.TempDir(t)
	for _, tt := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{filepath.Join(empty, "no")}, exitFailure, []string{"no such file", "try: shm demo"}},
		{[]string{empty}, exitFailure, []string{"there are no files", "try: shm demo"}},
		{[]string{"--limit", "3", root}, exitFailure, []string{"larger than 3 B", "try: shm demo --limit"}},
		{[]string{"--limit", "0", root}, exitUsage, []string{"--limit"}},
		{[]string{"--limit", "much", root}, exitUsage, []string{"much"}},
		{[]string{"--workers", "0", root}, exitUsage, []string{"--workers 0"}},
	} {
		out, errs, status := runDemo(t.Context(), append(tt.args, "--no-python")...)
		if status != tt.status || out != "" {
			t.Errorf("%q: status %d, wrote %q", tt.args, status, out)
		}
		for _, want := range tt.want {
			if runtime.GOOS == "windows" && want == "no such file" {
				continue // which Windows and Wine say each in their own way
			}
			if !strings.Contains(errs, want) {
				t.Errorf("%q: no %q in %s", tt.args, want, errs)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out, errs, status := runDemo(ctx, "--no-python", root); status != exitInterrupted || errs != "shm: interrupted\n" || out != "" {
		t.Errorf("interrupted: status %d, %q, wrote %q", status, errs, out)
	}
}

// More than the machine has: the error says how much would be needed, and what
// would fit.
func TestDemoNoSpace(t *testing.T) {
	noEmulator(t)
	if strconv.IntSize < 64 {
		t.Skip("a 32-bit address space ends before the memory does")
	}
	name := filepath.Join(shmtest.TempDir(t), "sparse")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 8<<40); err != nil {
		shmtest.Skip(t, "sparse", "the file system has no files of 8 TiB: "+err.Error())
	}
	_, errs, status := runDemo(t.Context(), "--limit", "16T", "--no-python", "--workers", "1", name)
	if status != exitFailure || !strings.Contains(errs, "the demo needs 9.0 TiB of shared memory for 8.0 TiB") || !strings.Contains(errs, "try: shm demo --limit ") {
		t.Errorf("status %d, %s", status, errs)
	}
}

func TestDemoWords(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1 000", 1234567: "1 234 567"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q, want %q", n, got, want)
		}
	}
	for _, tt := range []struct {
		shared, pipes demo.Turns
		want          string
	}{
		{demo.Turns{1, 2}, demo.Turns{3, 3}, "3.00 times as long (medians of 2"},
		{demo.Turns{1, 2}, demo.Turns{0.5, 0.9}, "pipes were faster"},
		{demo.Turns{1, 2}, demo.Turns{1.5, 2.5}, "no clear difference here, 1.50 times"},
		{demo.Turns{1, 2}, demo.Turns{0.5, 1.5}, "no clear difference here, 0.50 times"},
		{demo.Turns{1}, demo.Turns{3}, "only once"},
	} {
		c := &demo.Comparison{Shared: tt.shared, Pipes: tt.pipes, Ratio: tt.pipes.Median() / tt.shared.Median()}
		if got := verdict(c); !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q, want %q in it", c, got, tt.want)
		}
	}
}
