// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// A deep play goes on for hundreds of steps that are drawn by lot: members come by
// invitation, on their own or at an outsider's word, go, come back, refresh their
// keys, and hear each other late and out of order.
type deep struct {
	*play
	lot   *rand.Rand
	limit int // of members

	named    int               // actors so far
	since    map[string]uint64 // epoch in which a member came
	lastCame uint64            // the newest of these
	updating map[string]bool   // with an update that waits
	joining  []string          // with an add that waits
	keys     int               // pre-shared keys so far
	secret   bool              // a resumption PSK waits: nobody can join by this commit
	unheard  []late
}

// late is a text that members of its epoch have yet to hear.
type late struct {
	label string
	epoch uint64
	by    []string
}

// run plays n steps. The seed makes the same choices again.
func (d *deep) run(n int) error {
	d.since, d.updating = map[string]uint64{"m0": 0}, map[string]bool{}
	d.named = 1
	if err := d.play.run0(create("m0")); err != nil {
		return err
	}
	for i := range n {
		s := d.draw()
		if err := d.run0(s); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	// Whoever is still waiting for something need not wait any more.
	return d.play.run([]step{d.commit()})
}

func (p *play) run0(s step) error {
	if err := s.do(p); err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	return nil
}

// draw chooses the next step among those that make sense now.
func (d *deep) draw() step {
	for {
		if s, ok := d.try(d.lot.IntN(16)); ok {
			return s
		}
	}
}

func (d *deep) try(choice int) (s step, ok bool) {
	room := len(d.members)+len(d.joining) < d.limit
	one := d.one(d.members)
	switch choice {
	case 0, 1, 2: // an add, by reference
		if !room || d.secret {
			return s, false
		}
		name := d.newcomer()
		d.joining = append(d.joining, name)
		invite := add(one, name)
		if choice == 0 {
			invite = joinerAdd(one, name)
		}
		return step{"invite " + name, func(p *play) error {
			if err := keyPackage(name).do(p); err != nil {
				return err
			}
			return invite.do(p)
		}}, true
	case 3, 4:
		if d.updating[one] || d.removed[one] || d.idle() == 1 {
			return s, false
		}
		d.updating[one] = true
		return update(one), true
	case 5:
		gone := d.one(d.members)
		if len(d.members) < 3 || gone == one || d.updating[gone] || d.removed[gone] || d.idle() == 1 && !d.updating[gone] {
			return s, false
		}
		return remove(one, gone), true
	case 6:
		if len(d.joining) > 0 {
			return s, false
		}
		d.keys++
		label := fmt.Sprint("key ", d.keys)
		everybody := slices.Clone(d.members)
		return step{"PSK", func(p *play) error {
			if err := psk(label, everybody...).do(p); err != nil {
				return err
			}
			d.secret = true // those who join later lack it
			return externalPSK(one, label).do(p)
		}}, true
	case 7:
		from := max(d.lastCame, d.epoch-min(d.epoch, 30))
		if len(d.joining) > 0 || d.epoch == 0 {
			return s, false
		}
		d.secret = true
		return resumption(one, from+d.lot.Uint64N(d.epoch-from+1)), true
	case 8, 9, 10, 11:
		return d.commit(), true
	case 12: // from outside; the proposals that wait are lost
		if !room {
			return s, false
		}
		return d.came(externalJoin{from: one, joiner: d.newcomer(), externalTree: d.lot.IntN(2) == 0}), true
	case 13: // a member that has lost its state
		from := d.one(d.members)
		if from == one {
			return s, false
		}
		return d.came(externalJoin{from: from, joiner: one, removePrior: true, externalTree: d.lot.IntN(2) == 0}), true
	case 14:
		if len(d.unheard) > 50 {
			return s, false
		}
		label := fmt.Sprint("text ", d.epoch, " ", d.lot.Uint64())
		d.unheard = append(d.unheard, late{label, d.epoch, d.others(one)})
		return protect(one, label), true
	default:
		return d.hear()
	}
}

func (d *deep) one(names []string) string { return names[d.lot.IntN(len(names))] }

// idle is how many members can commit.
func (d *deep) idle() (n int) {
	for _, name := range d.members {
		if !d.updating[name] && !d.removed[name] {
			n++
		}
	}
	return n
}

// newcomer is a new actor, or one that was here before.
func (d *deep) newcomer() string {
	for i := range d.named {
		name := fmt.Sprint("m", i)
		if !slices.Contains(d.members, name) && !slices.Contains(d.joining, name) && d.lot.IntN(2) == 0 {
			return name
		}
	}
	d.named++
	return fmt.Sprint("m", d.named-1)
}

// commit covers all that waits; who can join does.
func (d *deep) commit() step {
	c := commit{joiners: d.joining, forcePath: d.lot.IntN(3) == 0, externalTree: d.lot.IntN(3) == 0}
	for c.by == "" || d.updating[c.by] || d.removed[c.by] {
		c.by = d.one(d.members)
	}
	return step{"commit by " + c.by, func(p *play) error {
		if err := c.do(p); err != nil {
			return err
		}
		d.settle(c.joiners...)
		return nil
	}}
}

func (d *deep) came(j externalJoin) step {
	return step{j.step().what, func(p *play) error {
		if err := j.do(p); err != nil {
			return err
		}
		d.settle(j.joiner)
		return nil
	}}
}

// settle is after an epoch began with newcomers.
func (d *deep) settle(came ...string) {
	for _, name := range came {
		d.since[name], d.lastCame = d.epoch, d.epoch
	}
	clear(d.updating)
	d.joining, d.secret = nil, false
}

// hear has somebody hear a text that is waiting for them.
func (d *deep) hear() (step, bool) {
	if len(d.unheard) == 0 {
		return step{}, false
	}
	i := d.lot.IntN(len(d.unheard))
	l := &d.unheard[i]
	l.by = slices.DeleteFunc(l.by, func(name string) bool { // who has gone, or come anew
		return !slices.Contains(d.members, name) || d.since[name] > l.epoch
	})
	if len(l.by) == 0 || d.epoch-l.epoch > 30 {
		d.unheard = slices.Delete(d.unheard, i, i+1)
		return step{}, false
	}
	name, label := l.by[0], l.label
	l.by = l.by[1:]
	return unprotect(name, label), true
}
