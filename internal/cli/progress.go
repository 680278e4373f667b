package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/sharedmem/shm/internal/platform/mem"
)

const (
	progressDelay = 300 * time.Millisecond // what is over sooner needs no bar
	progressEvery = 100 * time.Millisecond
)

// progress shows on stderr how far a transfer is, if that is a terminal, until
// stop is called, which erases it and may be called twice. total is in bytes;
// 0 or less means unknown. done is called from another goroutine and returns
// the bytes so far: the mover of the bytes keeps a counter, or done looks how
// far a file has grown, so that the kernel can copy in one call.
func (a *app) progress(label string, total int64, done func() int64) (stop func()) {
	if !isTerminal(a.stderr) {
		return func() {}
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		start := time.Now()
		select {
		case <-time.After(progressDelay):
		case <-quit:
			return
		}
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			width, _, err := term.GetSize(int(file(a.stderr).Fd()))
			if err != nil || width < 20 {
				width = 80
			}
			line := progressLine(label, done(), total, time.Since(start), width-1)
			// Erased and drawn in one write, or it would flicker.
			io.WriteString(a.stderr, "\r\x1b[K"+line)
			select {
			case <-tick.C:
			case <-quit:
				io.WriteString(a.stderr, "\r\x1b[K")
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(quit); <-gone })
}

// progressLine is the bar's text, at most width columns wide. label has been
// made printable.
func progressLine(label string, done, total int64, elapsed time.Duration, width int) string {
	var rate int64
	if s := elapsed.Seconds(); s > 0 {
		rate = int64(float64(done) / s)
	}
	text := fmt.Sprintf(" %s  %s/s", mem.Size(done), mem.Size(rate))
	if total > 0 {
		part := min(float64(done)/float64(total), 1)
		text = fmt.Sprintf(" %3.0f%%  %s of %s  %s/s", part*100, mem.Size(done), mem.Size(total), mem.Size(rate))
		if rate > 0 && done < total {
			left := time.Duration(float64(total-done) / float64(rate) * float64(time.Second))
			text += fmt.Sprintf("  %s left", left.Round(time.Second))
		}
		if room := min(width-len(label)-len(text)-3, 30); room >= 5 {
			full := int(part * float64(room))
			text = " [" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "]" + text
		}
	}
	line := []rune(label + text)
	return string(line[:min(len(line), width)])
}
