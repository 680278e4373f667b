package proc

import "testing"

func BenchmarkScan(b *testing.B) {
	for b.Loop() {
		s, err := Scan(func(Key) bool { return false })
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(s.Processes), "processes")
	}
}
