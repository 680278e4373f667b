package worker

import (
	"context"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// This file is what a pool does when something happens to a worker: the host of links.

// startError says that no worker could be started.
type startError struct{ error }

func (e *startError) Unwrap() error { return e.error }

// done is part of [host].
func (p *Pool) done(l link, id uint64, r *reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[l]
	i := -1
	if m != nil {
		i = slices.IndexFunc(m.tasks, func(t *task) bool { return t.id == id })
	}
	if i < 0 {
		r.drop() // a child that answers twice
		return
	}
	m.g.vain = 0
	t := m.tasks[i]
	m.tasks = slices.Delete(m.tasks, i, i+1)
	if m.doomed == t {
		m.doomed, m.killAt = nil, time.Time{}
	}
	if i == 0 && len(m.tasks) > 0 {
		p.first(m)
	}
	if t.timeout && t.canceled == nil {
		p.failed(t, m, r, ErrTimeout)
	} else {
		p.finish(t, m, r)
	}
	if p.opts.MaxMemory > 0 && !m.retiring {
		if now := time.Now(); now.Sub(m.looked) > 20*time.Millisecond {
			m.looked = now
			if proc.Resident(m.pid()) > p.opts.MaxMemory {
				p.retire(m)
			}
		}
	}
	p.feed(m)
}

// vainMax is how many workers more than there are may die in a row that have done nothing.
const vainMax = 5

// died is part of [host].
func (p *Pool) died(l link, d *Death, begun func(id uint64) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.members[l]; m != nil {
		p.bury(m, d, begun)
	} else {
		p.early[l] = deathNote{d, begun}
	}
	// It may have died between saying that it wakes somebody and doing so.
	p.ring.pump.Add(2)
	wait.Wake(p.ring.pump, 1<<30)
	p.rouse()
}

// bury removes a dead worker. What it had begun has failed, or is tried again; what it had not
// is somebody else's to do.
func (p *Pool) bury(m *member, d *Death, begun func(id uint64) bool) {
	g := m.g
	delete(p.members, m.link)
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	p.relink()
	switch {
	case m.stopped:
	case m.killed:
		p.stats.Killed++
	default:
		p.stats.Died++
	}
	p.last = d
	var again []*task
	g.vain++
	for _, t := range m.tasks {
		t.m = nil
		switch {
		case !begun(t.id) && !p.opts.single:
			p.unrun(t)
			t.timeout = false // it was the worker that took too long to begin
			again = append(again, t)
		case t.timeout && t.canceled == nil:
			g.vain = 0
			p.failed(t, m, &reply{}, ErrTimeout)
		default:
			g.vain = 0
			p.failed(t, m, &reply{}, d)
		}
	}
	m.tasks = nil
	p.requeue(g, again...)
	if g.vain > p.n+vainMax {
		// The next would do the same, for ever.
		g.vain = 0
		queue := g.queue
		g.queue = nil
		for _, t := range queue {
			p.finish(t, m, &reply{err: d})
		}
	}
	// One that dies before it has done anything is not replaced before it is needed:
	// the next might do the same.
	if !p.closing && (m.sent > 0 || len(g.queue) > 0) || len(g.queue) > 0 {
		p.staff(g)
	}
	p.changed.Broadcast()
	p.tellProgress()
}

// requeue puts tasks before all others, and gives them to who has room.
func (p *Pool) requeue(g *group, tasks ...*task) {
	kept := tasks[:0]
	for _, t := range tasks {
		t.m = nil
		if t.canceled != nil {
			p.finish(t, nil, &reply{err: t.canceled})
			continue
		}
		kept = append(kept, t)
	}
	g.queue = append(kept, g.queue...)
	for len(g.queue) > 0 {
		m := g.idlest(p)
		if m == nil {
			break
		}
		before := len(g.queue)
		p.feed(m)
		if len(g.queue) == before {
			break
		}
	}
}

// failed ends a task whose worker failed it, or has it run again.
func (p *Pool) failed(t *task, m *member, r *reply, err error) {
	r.drop()
	if t.canceled == nil && t.runs <= p.opts.Retries {
		t.timeout = false
		p.requeue(m.g, t)
		p.staff(m.g)
		return
	}
	p.finish(t, m, &reply{err: err})
}

// finish ends a task, once.
func (p *Pool) finish(t *task, m *member, r *reply) {
	if t.canceled != nil {
		r.drop()
		r = &reply{err: t.canceled}
	}
	if m != nil {
		t.worker = m.pid()
	}
	t.in.release()
	t.m, t.result = nil, r
	if r.err == nil {
		p.stats.Done++
	} else {
		p.stats.Failed++
	}
	p.open.Add(-1)
	t.over.Store(true)
	if t.ended != nil {
		close(t.ended)
	}
	if t.tell != nil {
		t.tell()
	}
	p.makeRoom()
	if p.closing {
		p.changed.Broadcast()
	}
	p.rouse()
	p.tellProgress()
}

// cancel ends a task before its time. It is over when no worker works on it any more.
func (p *Pool) cancel(t *task, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.over.Load() || t.canceled != nil || t.p == nil {
		return
	}
	p.cancelLocked(t, why)
}

func (p *Pool) cancelLocked(t *task, why error) {
	t.canceled = why
	m := t.m
	if m == nil {
		g := p.group(t.to.program)
		if i := slices.Index(g.queue, t); i >= 0 {
			g.queue = slices.Delete(g.queue, i, i+1)
			p.finish(t, nil, &reply{err: why})
		}
		return
	}
	if m.withdraw(t.id) {
		head := m.tasks[0] == t
		m.tasks = slices.DeleteFunc(m.tasks, func(o *task) bool { return o == t })
		if head && len(m.tasks) > 0 {
			p.first(m)
		}
		p.unrun(t)
		p.finish(t, m, &reply{err: why})
		p.feed(m)
		return
	}
	p.interrupt(m, t)
}

// interrupt has a worker give up its first task, and be killed when its grace is over. What it
// has not begun is given to others.
func (p *Pool) interrupt(m *member, t *task) {
	m.cancel(t.id)
	if m.killAt.IsZero() {
		m.doomed = t
		m.killAt = time.Now().Add(p.opts.Grace)
		p.arm(m.killAt)
	}
	var others []*task
	m.tasks = slices.DeleteFunc(m.tasks, func(o *task) bool {
		taken := o != t && m.withdraw(o.id)
		if taken {
			p.unrun(o)
			others = append(others, o)
		}
		return taken
	})
	if len(others) > 0 {
		p.requeue(m.g, others...)
	}
}

// arm has tick be called at that time, or before.
func (p *Pool) arm(at time.Time) {
	if p.due.IsZero() || at.Before(p.due) {
		p.due = at
		p.timer.Reset(time.Until(at))
	}
}

// tick looks for jobs that take too long, and for workers that do not stop.
func (p *Pool) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = time.Time{}
	now := time.Now()
	for _, m := range p.members {
		if !m.killAt.IsZero() {
			if now.Before(m.killAt) {
				p.arm(m.killAt)
			} else {
				m.killed = true
				m.kill()
				m.killAt = now.Add(time.Hour) // it dies
			}
			continue
		}
		if p.opts.Timeout <= 0 || len(m.tasks) == 0 {
			continue
		}
		if end := m.since.Add(p.opts.Timeout); now.Before(end) {
			p.arm(end)
			continue
		}
		m.tasks[0].timeout = true
		p.interrupt(m, m.tasks[0])
	}
}

// relink makes what poll goes through.
func (p *Pool) relink() {
	all := make([]link, 0, len(p.members))
	for l := range p.members {
		all = append(all, l)
	}
	p.links.Store(&all)
}

// poll takes what results there are.
func (p *Pool) poll() (some bool) {
	for _, l := range *p.links.Load() {
		if l.poll() {
			some = true
		}
	}
	return some
}

// pump polls whenever a child rings the bell, so that results arrive though nobody waits for
// them, or too many do. It spends its life in one system call, and so has a thread.
func (p *Pool) pump() {
	defer close(p.pumped)
	for p.ctx.Err() == nil {
		v := p.ring.pump.Load()
		if !p.leading.Load() {
			v = drowse(p.ring.pump)
		}
		if p.poll() {
			runtime.Gosched() // those whom it woke would have to wait for another thread
			continue
		}
		if p.ctx.Err() == nil && wait.Any(0, wait.On{Word: p.ring.pump, Value: v}) != nil {
			return
		}
	}
}

// await waits until ready, or until ch is closed, which it is then. One of those who wait for
// children that ring leads.
func (p *Pool) await(ctx context.Context, rings bool, ready func() bool, ch func() <-chan struct{}) error {
	if ready() {
		return nil
	}
	if rings && p.lead.TryLock() && p.leads(ctx, ready) {
		return nil
	}
	select {
	case <-ch():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leads looks for results in the pump's place, until ready or until ctx is done: who waits
// for a result has it sooner if he is woken by the child itself, and while he does not
// sleep, nobody needs to be woken at all. What comes for others they are given. Call with lead
// locked; it is unlocked.
func (p *Pool) leads(ctx context.Context, ready func() bool) (ok bool) {
	defer p.lead.Unlock()
	p.leading.Store(true)
	calm(p.ring.pump)
	limit := p.spin.limit()
	for looks := 1; ; looks++ {
		some := p.poll()
		if ok = ready(); ok && looks <= limit {
			p.spin.found(looks)
		}
		if ok || ctx.Err() != nil {
			break
		}
		if looks <= limit || limit < 0 {
			p.spin.pause()
			if looks&63 == 0 {
				runtime.Gosched()
			}
			continue
		}
		if looks == limit+1 {
			p.spin.missed()
			if ctx.Done() != nil {
				undo := context.AfterFunc(ctx, func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.rouse()
				})
				defer undo()
			}
		}
		if some {
			runtime.Gosched() // as the pump does
		}
		if !p.sleep(ctx, ready) {
			break
		}
	}
	p.leading.Store(false)
	calm(p.ring.lead)
	// The pump may have gone to sleep without the bit, or more may be on its way than what we
	// waited for. Results that came before the bit are taken now, later ones wake it.
	if p.open.Load() > 0 {
		drowse(p.ring.pump)
		p.poll()
		ok = ok || ready()
	}
	return ok
}

// sleep is the leader's, until a child rings or rouse is called.
func (p *Pool) sleep(ctx context.Context, ready func() bool) bool {
	v := drowse(p.ring.lead)
	p.asleep.Store(true)
	defer p.asleep.Store(false)
	p.poll()
	if ready() || ctx.Err() != nil {
		return true
	}
	return wait.One(p.ring.lead, v) == nil // the pump looks each second
}

// rouse wakes a leader that sleeps, for what no child tells him. Call with the pool's lock, as
// the bell goes with the pool.
func (p *Pool) rouse() {
	if p.asleep.Load() {
		p.ring.lead.Add(2) // whatever children did with the bit
		wait.Wake(p.ring.lead, 1<<30)
	}
}

// wait returns when the task is over. (A context that ends cancels the task, which
// then soon is.)
func (t *task) wait() {
	// A context is for those who may leave before that: nobody here.
	ctx := context.Background()
	if t.leads {
		t.leads = false
		if t.p.leads(ctx, t.over.Load) {
			return
		}
	}
	_ = t.p.await(ctx, t.to.program == self, t.over.Load, t.end)
}

// end returns a channel that is closed when the task is over.
func (t *task) end() <-chan struct{} {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.ended == nil {
		t.ended = make(chan struct{})
		if t.over.Load() {
			close(t.ended)
		}
	}
	return t.ended
}

// settle tells those who wait for a group's workers.
func (p *Pool) settle(g *group, err error) {
	if err == nil && g.starting > 0 {
		return
	}
	for _, c := range g.ready {
		c <- err
	}
	g.ready = nil
}

// Stats returns the pool's counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *Pool) statsLocked() Stats {
	s := p.stats
	s.Workers = len(p.members)
	s.Pending = int(p.open.Load())
	for _, m := range p.members {
		if len(m.tasks) > 0 {
			s.Busy++
		}
	}
	return s
}

func (p *Pool) tellProgress() {
	if p.told == nil {
		return
	}
	select {
	case p.told <- struct{}{}:
	default:
	}
}

func (p *Pool) progress() {
	for range p.told {
		p.opts.Progress(p.Stats())
	}
}

// Close waits until all jobs are over, stops the workers, which may take what Grace is for
// each that does not stop by itself, and returns when they are gone. Jobs that are
// submitted meanwhile or later fail with os.ErrClosed. It returns nil.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closing = true
	for len(p.room) > 0 {
		p.makeRoom() // they see that it is closing
	}
	for p.open.Load() > 0 {
		p.changed.Wait()
	}
	p.disband()
	p.mu.Unlock()
	p.undo()
	p.end()
	p.hiring.Wait()
	p.mu.Lock()
	p.disband() // those who were being hired
	p.mu.Unlock()
	p.closed.Do(p.shut)
	return nil
}

// disband lets all workers go and waits until they are gone.
func (p *Pool) disband() {
	for len(p.members) > 0 {
		for _, m := range p.members {
			p.dismiss(m)
		}
		p.changed.Wait()
	}
}

// shut ends the pool's own goroutines.
func (p *Pool) shut() {
	p.ring.pump.Or(sleepBit)
	wakeUp(p.ring.pump)
	<-p.pumped
	p.mu.Lock()
	p.timer.Stop()
	told := p.told
	p.told = nil
	p.mu.Unlock()
	if told != nil {
		close(told)
		p.telling.Wait()
	}
	p.lead.Lock() // somebody may lead who has not seen yet that his job is over
	defer p.lead.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.ring.block.Close()
}

// Kill ends all jobs, which fail with os.ErrClosed, and all workers at once, as far as a
// process can be: none of them is given a grace. When it returns they are gone.
func (p *Pool) Kill() {
	p.terminate(os.ErrClosed)
	_ = p.Close()
}

// terminate is Kill without waiting.
func (p *Pool) terminate(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = true
	p.end()
	for len(p.room) > 0 {
		p.makeRoom() // they see that it is closing
	}
	for _, g := range p.groups {
		queue := g.queue
		g.queue = nil
		for _, t := range queue {
			t.canceled = why
			p.finish(t, nil, &reply{err: why})
		}
	}
	for _, m := range p.members {
		for _, t := range m.tasks {
			if t.canceled == nil {
				t.canceled = why
			}
		}
		m.killed = true
		m.kill()
	}
}
