package worker

// PIDs returns the workers that live now.
func (p *Pool) PIDs() (pids []int) {
	for _, l := range *p.links.Load() {
		pids = append(pids, l.pid())
	}
	return pids
}
