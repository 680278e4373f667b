package main

import (
	"errors"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/list"
)

// The fields, as in panel.py. Each has one kind of writer, and everybody reads.
const (
	fieldName        = iota // text; nil when the service has ended. The service writes it
	fieldCount              // int, how many pieces have been made. The workers, by AddInt alone
	fieldTemperature        // float, in kelvin; nil until it is measured. Python
	fieldError              // text; nil as long as there was none. The workers
	fieldEnabled            // bool. Python
)

// look returns a field that Python writes. CPython clears a format and a value
// before it fills them, so whoever looks in that moment finds no format, which
// is shm.ErrFormat, or zero: then the thing to do is to look again.
func look(l *list.List, field int) (any, error) {
	for began := time.Now(); ; time.Sleep(10 * time.Microsecond) {
		v, err := l.At(field)
		if !errors.Is(err, shm.ErrFormat) || time.Since(began) > time.Second {
			return v, err
		}
	}
}
