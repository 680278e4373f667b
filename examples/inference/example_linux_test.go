package inference_test

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// probabilities is what model.py is to compute with the weights of serve, in float64.
func probabilities(x []float64) []float64 {
	weight := func(rows, columns, i, j int) float64 {
		return math.Sin(float64(1+i*columns+j*j)) / math.Sqrt(float64(rows))
	}
	const hidden, classes = 1024, 10
	y := make([]float64, classes)
	for h := range hidden {
		sum := 0.0
		for i, v := range x {
			sum += v * weight(len(x), hidden, i, h)
		}
		for c := range y {
			y[c] += max(sum, 0) * weight(hidden, classes, h, c)
		}
	}
	total := 0.0
	for c := range y {
		y[c] = math.Exp(y[c])
		total += y[c]
	}
	for c := range y {
		y[c] /= total
	}
	return y
}

func TestInference(t *testing.T) {
	program := shmtest.Programs(t)
	shmtest.Deadline(t, 5*time.Minute)
	x := make([]float64, 256)
	for i := range x {
		x[i] = float64(i%7) / 7
	}
	want := probabilities(x)
	body, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	for _, py := range shmtest.PythonsWith(t, "numpy") {
		t.Run("numpy"+py.Module, func(t *testing.T) {
			server := shmtest.StartCommand(t, exec.Command(program("serve"), "-address", "127.0.0.1:0", "-python", py.Path, "-n", "2", "-batch", "8"))
			url, ok := strings.CutPrefix(server.Line(), "listening on ")
			if !ok {
				t.Fatalf("it says %q", url)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			ask := func(body string) (status int, text []byte) {
				t.Helper()
				r, err := client.Post(url, "application/json", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				if text, err = io.ReadAll(r.Body); err != nil {
					t.Fatal(err)
				}
				return r.StatusCode, text
			}
			check := func() {
				t.Helper()
				var got struct {
					Class         int
					Probabilities []float64
				}
				status, text := ask(string(body))
				if err := json.Unmarshal(text, &got); err != nil || status != http.StatusOK || len(got.Probabilities) != len(want) {
					t.Fatalf("%d %s: %v", status, text, err)
				}
				for c, p := range got.Probabilities {
					if math.Abs(p-want[c]) > 1e-4 || p > got.Probabilities[got.Class] {
						t.Errorf("class %d: %g, want %g; the best is %d", c, p, want[c], got.Class)
					}
				}
			}
			check()
			for _, bad := range []string{"[1, 2]", "{}", "[1"} {
				if status, text := ask(bad); status != http.StatusBadRequest {
					t.Errorf("%s: %d %s", bad, status, text)
				}
			}
			load := shmtest.StartCommand(t, exec.Command(program("load"), "-url", url, "-c", "8", "-n", "400"))
			if line := load.Line(); !regexp.MustCompile(`^400 requests by 8 clients: \d+ a second, p50 [\d.]+ ms, p99 [\d.]+ ms, batches of [\d.]+$`).MatchString(line) {
				t.Errorf("load says %q", line)
			}
			if status := load.Wait(); status != 0 {
				t.Errorf("load ends with %d: %s", status, load.Stderr())
			}
			check() // whatever stood in that row before
			if err := server.Cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if status := server.Wait(); status != 0 || server.Stderr() != "" {
				t.Errorf("the server ends with %d: %s", status, server.Stderr())
			}
		})
	}
}
