package shmtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Mutant is a defect that one test at least must find: its name; a file; what stands in
// there exactly once; what stands there in its place; and the test, without TestKill.
type Mutant [5]string

// said is a line that a test has written.
var said = regexp.MustCompile(`(?m)^\s+\w+\.go:\d+: (.*)$`)

// Mutants shows of the tests of a package that they can fail: each mutant is compiled
// in place of the real file, and a test has to find it.
func Mutants(t *testing.T, mutants []Mutant) {
	if os.Getenv("SHM_QEMU") != "" {
		Skip(t, "native", "the compiler would run under the emulator, and what it makes without it")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		Skip(t, "go", "nothing can be compiled here: "+err.Error())
	}
	for _, m := range mutants {
		name, file, old, changed, finds := m[0], m[1], m[2], m[3], m[4]
		t.Run(name, func(t *testing.T) {
			file, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(src), old); n != 1 {
				t.Fatalf("the text is there %d times; this test has to follow the code", n)
			}
			dir := t.TempDir()
			mutant := filepath.Join(dir, "mutant.go")
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: mutant}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(mutant, []byte(strings.Replace(string(src), old, changed, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			binary := filepath.Join(dir, "mutant.test")
			build := exec.Command(tool, "test", "-c", "-tags", "shmcrash", "-vet=off", "-overlay", filepath.Join(dir, "overlay"), "-o", binary, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("it does not compile: %v\n%s", err, out)
			}
			run := exec.Command(binary, "-test.run", "^TestKill"+strings.ReplaceAll(finds, "/", "$/^")+"$", "-test.failfast", "-test.v")
			run.Env = append(os.Environ(), "SHM_EXPLORE=600s", "SHM_KILLS=10")
			out, err := run.CombinedOutput()
			if err == nil {
				t.Fatalf("nobody has noticed:\n%s", out)
			}
			what := "it was found otherwise"
			for _, line := range said.FindAllStringSubmatch(string(out), -1) {
				if !strings.Contains(line[1], " schedules, ") {
					what = line[1]
					break
				}
			}
			t.Log(what)
			if !strings.Contains(string(out), "--- FAIL: TestKill") {
				t.Errorf("not found by a check: %v\n%s", err, out)
			}
		})
	}
}
