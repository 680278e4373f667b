package cli

import (
	"math"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "4096": 4096, "64K": 64 << 10, "64k": 64 << 10, "1MiB": 1 << 20, "2G": 2 << 30, "3TiB": 3 << 40,
		"1P": 1 << 50, "7E": 7 << 60, "10B": 10, "10 K": 10 << 10, "1KB": 1000, "2MB": 2000000, "1.5K": 1536,
		"0.1K": 102, "9223372036854775807": math.MaxInt64,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "K", "-1", "+1", "1.", ".5", "1..5", "1x", "1KK", "1iB", "0x10", "1e3", " 1", "8E", "9223372036854775808", "8796093022208M", "1K ib"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"10m": 10 * time.Minute, "2h": 2 * time.Hour, "3d": 3 * day, "1w2d": 9 * day, "1d12h30m": 36*time.Hour + 30*time.Minute,
		"0": 0, "0s": 0, "1.5h": 90 * time.Minute, "2w": 14 * day,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "3", "d", "w", "-1h", "-1d", "1d-1h", "1d2w", "1dd", "200000d", "106751d24h", "9999999w", "1.5d", "soon", "+1d"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func TestParseMode(t *testing.T) {
	for s, want := range map[string]uint32{"600": 0o600, "0660": 0o660, "0o644": 0o644, "1": 1} {
		if got, err := parseMode(s); err != nil || uint32(got) != want {
			t.Errorf("parseMode(%q) = %o, %v; want %o", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "8", "1777", "rw", "-6"} {
		if got, err := parseMode(s); err == nil {
			t.Errorf("parseMode(%q) = %o, want an error", s, got)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"4096", "64K", "1.5GiB", "9E", "1KB", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err == nil && n < 0 {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
		// More digits before the unit never make a size smaller.
		if more, err2 := parseSize("1" + s); err == nil && err2 == nil && more < n {
			t.Errorf("parseSize(%q) = %d, but with a 1 before it %d", s, n, more)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"10m", "3d", "1w2d3h", "106751d23h", "d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDuration(s)
		if err == nil && d < 0 {
			t.Errorf("parseDuration(%q) = %v", s, d)
		}
		// What Go reads means the same here.
		if std, err2 := time.ParseDuration(s); err2 == nil && std >= 0 && (err != nil || std != d) {
			t.Errorf("parseDuration(%q) = %v, %v; time.ParseDuration says %v", s, d, err, std)
		}
	})
}
