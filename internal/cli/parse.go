package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseSize reads a size as people write it: 4096, 64K, 1.5GiB. K and KiB are
// 1024, KB is 1000, as in dd and truncate; case does not matter. A fraction is
// rounded down to whole bytes.
func parseSize(s string) (int64, error) {
	digits := len(s)
	for i, c := range []byte(s) {
		if (c < '0' || c > '9') && c != '.' {
			digits = i
			break
		}
	}
	number, unit := s[:digits], strings.ToUpper(strings.TrimSpace(s[digits:]))
	multiple := int64(1)
	if unit != "" && unit != "B" {
		power := strings.IndexByte("KMGTPE", unit[0]) + 1
		base := int64(1024)
		switch unit[1:] {
		case "", "IB":
		case "B":
			base = 1000
		default:
			power = 0
		}
		if power == 0 {
			return 0, badSize(s)
		}
		for range power {
			multiple *= base // 1024⁶ fits
		}
	}
	whole, fraction, dotted := strings.Cut(number, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || dotted && fraction == "" {
		return 0, badSize(s)
	}
	if err != nil || n > math.MaxInt64/multiple {
		return 0, fmt.Errorf("size %q is beyond any memory", s)
	}
	n *= multiple
	if dotted {
		// The whole part is exact; of the fraction a float has more than enough.
		f, err := strconv.ParseFloat("0."+fraction, 64)
		if err != nil {
			return 0, badSize(s)
		}
		part := int64(f * float64(multiple))
		if n > math.MaxInt64-part {
			return 0, fmt.Errorf("size %q is beyond any memory", s)
		}
		n += part
	}
	return n, nil
}

func badSize(s string) error {
	return fmt.Errorf("%q is not a size such as 4096, 64K, 1MiB or 2G", s)
}

// parseDuration reads what time.ParseDuration reads, and days and weeks before
// that: 3d, 1w2d, 1d12h.
func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration such as 10m, 2h or 3d", s)
	rest := s
	var sum time.Duration
	for _, u := range []struct {
		name byte
		unit time.Duration
	}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}} {
		number, after, ok := strings.Cut(rest, string(u.name))
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || time.Duration(n) > (math.MaxInt64-sum)/u.unit {
			return 0, bad
		}
		sum += time.Duration(n) * u.unit
		rest = after
	}
	if rest == "" && s != "" {
		return sum, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-sum {
		return 0, bad
	}
	return sum + d, nil
}

// parseMode reads permission bits in octal.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("%q is not a mode such as 600 or 0660", s)
	}
	return fs.FileMode(n), nil
}

// value makes a flag of a parser.
type value[T any] struct {
	to    *T
	parse func(string) (T, error)
	text  string
	kind  string
}

// newValue returns a flag that stores in *to what parse reads, and shows text
// until it is set.
func newValue[T any](to *T, kind, text string, parse func(string) (T, error)) *value[T] {
	return &value[T]{to, parse, text, kind}
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

func (v *value[T]) Set(s string) error {
	t, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.to, v.text = t, s
	return nil
}
