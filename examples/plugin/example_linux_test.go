package plugin_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestPlugin(t *testing.T) {
	program := shmtest.Programs(t)
	shmtest.Deadline(t, 5*time.Minute)
	library := filepath.Join(shmtest.TempDir(t), "libreverse.so")
	if _, err := exec.LookPath("gcc"); err != nil {
		shmtest.Skip(t, "gcc", err.Error())
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, filepath.Join("c", "reverse.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pythons := slices.DeleteFunc(slices.Clone(shmtest.Pythons(t)), func(py shmtest.Python) bool {
		return py.Env != nil // modules of a newer version, without its program
	})
	if len(pythons) == 0 {
		shmtest.Skip(t, "python", "none that needs no environment")
	}
	// The oldest and the newest.
	for _, py := range slices.Compact([]string{pythons[0].Path, pythons[len(pythons)-1].Path}) {
		t.Run(py, func(t *testing.T) {
			server := shmtest.StartCommand(t, exec.Command(program("serve"),
				"-lib", library, "-address", "127.0.0.1:0", "-python", py, "-timeout", "5s"))
			url, ok := strings.CutPrefix(server.Line(), "listening on ")
			if !ok {
				t.Fatalf("it says %q", url)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			ask := func(text string, status int, want string) {
				t.Helper()
				r, err := client.Post(url, "text/plain", strings.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				got, err := io.ReadAll(r.Body)
				if err != nil || r.StatusCode != status || string(got) != want {
					t.Errorf("%s: %d %q %v, want %d %q", text, r.StatusCode, got, err, status, want)
				}
			}
			ask("hello", http.StatusOK, "olleh\n")
			ask("hello!", http.StatusBadGateway, "it crashes, twice\n")
			// Each process aborts at its fifth call, and nobody notices.
			for range 20 {
				ask("abc", http.StatusOK, "cba\n")
			}
			ask("what?", http.StatusGatewayTimeout, "it takes too long\n")
			ask("ok", http.StatusOK, "ko\n")
			if err := server.Cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			status := server.Wait()
			for _, want := range []string{`"hello!": `, "signal 11", "in reverse", `"what?": `, "have died: "} {
				if !strings.Contains(server.Stderr(), want) {
					t.Errorf("it does not report %s", want)
				}
			}
			if status != 0 || t.Failed() {
				t.Errorf("status %d: %s", status, server.Stderr())
			}
		})
	}
}
