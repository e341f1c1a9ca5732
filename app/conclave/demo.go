// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/config"
)

func (p *program) demo() *cobra.Command {
	var file, trusted string
	cmd := &cobra.Command{
		Use:         "demo",
		Annotations: only("json"),
		Short:       "Watch a group of four, in separate processes, killed and brought back",
		Long: `Start a delivery service and four members in a temporary folder, each in a process of
its own with its own encrypted database, and have them go through the life of a
conversation. The exit code is 1 if at any step the members do not agree.

With --config each member's conclave.toml begins as this file, in which paths begin at the
member's own folder: so you see the parts at work that you have made, such as plugins. What
is away for a while, as a plugin that was killed, is waited for; then there may be more
commits than are told of. If its issuer issues certificates, --trust is the PEM file of the
root CA above it.`,
		Example: `  conclave demo
  conclave demo --config plugins.toml --trust ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			begin := time.Now()
			var text []byte
			certified := false
			if file != "" {
				c, err := config.Load(file)
				if err != nil {
					return hint(err, mendFile)
				}
				certified = c.Issuer != config.Default("").Issuer
				if text, err = os.ReadFile(file); err != nil {
					return err
				}
			}
			if trusted != "" {
				var err error
				if trusted, err = filepath.Abs(trusted); err != nil {
					return err
				}
			}
			s, err := newStage(cmd.Context(), text)
			if err != nil {
				return err
			}
			d := &demo{program: p, stage: s, ctx: cmd.Context(), certified: certified, trusted: trusted}
			if err = errors.Join(d.play(), s.close()); err != nil {
				return fmt.Errorf("the demonstration failed: %w", err)
			}
			seconds := time.Since(begin).Seconds()
			return p.result(struct {
				Agreed  bool    `json:"agreed"`
				Steps   int     `json:"steps"`
				Seconds float64 `json:"seconds"`
			}{true, d.step, seconds}, "\nAll members agreed after every step. %.1f s; processes and folder are gone.\n", seconds)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "what the configuration of each member begins with")
	cmd.Flags().StringVar(&trusted, "trust", "", "PEM file of CAs that each member trusts")
	return cmd
}

// A demo is the demonstration under way.
type demo struct {
	program *program
	stage   *stage
	ctx     context.Context
	members []*actor // in the conversation
	id      string   // of the conversation
	address string   // of the delivery service
	step    int
	epoch   uint64 // in which all agreed last

	certified bool   // members have certificates
	trusted   string // file of CAs
}

func (d *demo) play() error {
	for _, scene := range []func() error{
		d.begin, d.create, d.talk, d.remove, d.rotate, d.killed, d.atOnce, d.newDevice,
	} {
		if err := scene(); err != nil {
			return err
		}
		if err := d.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) title(format string, args ...any) {
	d.step++
	text := fmt.Sprintf(format, args...)
	d.print(demoLine{d.step, text}, "\n%d. %s\n", d.step, text)
}

// A demoLine is what --json prints of the demonstration.
type demoLine struct {
	Step int    `json:"step"`
	Text string `json:"text"`
}

func (d *demo) print(line demoLine, format string, args ...any) {
	_ = d.program.result(line, format, args...) // the demonstration goes on if nobody looks
}

func (d *demo) tell(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.print(demoLine{d.step, strings.TrimSpace(text)}, "   %s\n", text)
}

// begin: a service and four identities.
func (d *demo) begin() error {
	d.title("A delivery service starts, and four people make identities.")
	service, address, err := d.stage.serve()
	if err != nil {
		return err
	}
	d.address = address
	d.tell("process %d: the delivery service at %s", service.pid(), address)
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		a, err := d.stage.enter(name)
		if err != nil {
			return err
		}
		if err := d.identify(a); err != nil {
			return err
		}
		d.tell("process %d: %s, with %s", a.pid(), name, d.parts())
		d.members = append(d.members, a)
	}
	return nil
}

// identify makes the identity of a member.
func (d *demo) identify(a *actor) error {
	args := []string{"init", a.name, "--delivery", d.address}
	if d.trusted != "" {
		args = append(args, "--trust", d.trusted)
	}
	_, err := a.do(args...)
	return err
}

func (d *demo) parts() string {
	if d.stage.config != nil {
		return "what the configuration says"
	}
	return "an encrypted SQLite file"
}

func (d *demo) create() (err error) {
	alice := d.members[0]
	d.title("Alice creates a conversation and adds the other three with one commit.")
	if d.id, err = alice.do("chat", "create", "friends"); err != nil {
		return err
	}
	if err := d.commit(alice, "chat", "add", d.id, "bob", "carol", "dave"); err != nil {
		return err
	}
	return d.agree(1)
}

func (d *demo) talk() error {
	d.title("They talk.")
	if err := d.say(d.members[0], "Hello, all of you!"); err != nil {
		return err
	}
	return d.say(d.members[3], "Hello Alice, Dave here.")
}

// say has a member send a text, and all others read it.
func (d *demo) say(from *actor, text string) error {
	for _, m := range d.members {
		if _, err := m.do("chat", "read", d.id); err != nil { // what came before is not the point
			return err
		}
	}
	if err := d.send(from, text); err != nil {
		return err
	}
	var readers []string
	for _, m := range d.members {
		if m == from {
			continue
		}
		got, err := m.do("chat", "read", d.id)
		if err != nil {
			return err
		}
		if want := from.name + ": " + text; got != want {
			return fmt.Errorf("%s read %q, want %q", m.name, got, want)
		}
		readers = append(readers, m.name)
	}
	d.tell("%s: %q; read by %s", from.name, text, strings.Join(readers, ", "))
	return nil
}

// remove: dave is out, and cannot read what he gets hold of.
func (d *demo) remove() error {
	d.title("Alice removes Dave, who has not heard of it yet and still has all his keys.")
	alice, dave := d.members[0], d.members[3]
	if err := d.commit(alice, "chat", "remove", d.id, "dave"); err != nil {
		return err
	}
	d.members = d.members[:3]
	if err := d.say(alice, "Now without Dave."); err != nil {
		return err
	}
	ciphertext, err := alice.do("demo-ciphertext", d.id)
	if err != nil {
		return err
	}
	stolen, err := dave.tell("demo-open", d.id, ciphertext)
	if err != nil {
		return err
	}
	if !stolen.failed {
		return fmt.Errorf("dave, who was removed, opened the message: %q", stolen.out)
	}
	d.tell("dave gets hold of the encrypted message and tries his keys on it:")
	d.tell("  %s", strings.TrimPrefix(firstLine(stolen.err), "conclave: "))
	got, err := dave.do("chat", "read", d.id)
	if err != nil {
		return err
	}
	if !strings.Contains(got, "alice removed you") || strings.Contains(got, "without Dave") {
		return fmt.Errorf("dave, who was removed, read %q", got)
	}
	d.tell("dave reads what the service has for him:")
	d.tell("  %s", got)
	if refused, err := dave.tell("chat", "send", d.id, "Hello?"); err != nil || !refused.failed {
		return errors.Join(err, errors.New("dave, who was removed, could send"))
	}
	return d.agree(2)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (d *demo) rotate() error {
	d.title("Bob makes a fresh signature key and takes it into use.")
	args := []string{"keys", "rotate"}
	if d.certified { // and for that a certificate
		args = []string{"identity", "enroll"}
	}
	if err := d.commit(d.members[1], args...); err != nil {
		return err
	}
	return d.agree(3)
}

// killed: a process dies when the service has accepted its commit and it has not
// heard.
func (d *demo) killed() error {
	d.title("Carol's process is killed between sending a commit and hearing the answer.")
	carol := d.members[2]
	held, err := carol.holdAt(holdAfter, "chat", "update", d.id)
	if err != nil {
		return err
	}
	if !slices.Equal(held.commits, []int{200}) {
		return fmt.Errorf("carol's commit got %v", held.commits)
	}
	before := carol.pid()
	carol.kill()
	d.tell("process %d: the service has accepted carol's commit; killed with SIGKILL", before)
	if err := d.send(d.members[0], "Carol, are you there?"); err != nil {
		return err
	}
	d.tell("alice, who has taken the commit, writes in epoch %d: \"Carol, are you there?\"", d.epoch+1)
	if carol, err = d.stage.enter("carol"); err != nil {
		return err
	}
	d.members[2] = carol
	got, err := carol.do("chat", "read", d.id)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(got, "alice: Carol, are you there?") {
		return fmt.Errorf("carol, back again, read %q", got)
	}
	d.tell("process %d: carol is back and reads it", carol.pid())
	return d.agree(4)
}

// atOnce: two commits for one epoch.
func (d *demo) atOnce() error {
	d.title("Alice and Bob commit at the same time.")
	pair := d.members[:2]
	for _, m := range pair {
		if _, err := m.holdAt(holdBefore, "chat", "update", d.id); err != nil {
			return err
		}
	}
	d.tell("both have a commit for epoch %d; now both send it", d.epoch)
	for _, m := range pair {
		if err := m.send(order{Release: true}); err != nil {
			return err
		}
	}
	refused, disturbed := 0, false
	for _, m := range pair {
		var r result
		if err := m.hear(&r); err != nil {
			return err
		}
		switch {
		case !r.failed && slices.Equal(r.commits, []int{409, 200}):
			refused++
			d.tell("%s was second (409 Conflict), took the other commit and committed again", m.name)
		case !r.failed && slices.Equal(r.commits, []int{200}):
			d.tell("%s was first (200 OK)", m.name)
		case d.stage.config == nil || r.failed && !r.away():
			return fmt.Errorf("the commits of %s got %v: %s", m.name, r.commits, r.err)
		default: // a part had gone away
			disturbed = true
			if _, err := m.do("chat", "update", d.id); err != nil {
				return err
			}
			d.tell("%s has committed, after a while", m.name)
		}
	}
	if refused != 1 && !disturbed {
		return fmt.Errorf("%d commits were refused, want 1", refused)
	}
	return d.agree(6)
}

// newDevice: an external commit.
func (d *demo) newDevice() error {
	d.title("Alice's new laptop joins by an external commit.")
	laptop, err := d.stage.enter("alice-laptop")
	if err != nil {
		return err
	}
	if err := d.identify(laptop); err != nil {
		return err
	}
	if err := d.commit(laptop, "chat", "join", d.id); err != nil {
		return err
	}
	d.members = append(d.members, laptop)
	if err := d.agree(7); err != nil {
		return err
	}
	return d.say(laptop, "Same Alice, other device.")
}

// commit has a member run a command that commits. Where a part has gone away meanwhile, the
// member looks whether it has come about, and else tries again.
func (d *demo) commit(m *actor, args ...string) error {
	for try := 1; ; try++ {
		r, err := m.try(args...)
		if err != nil || !r.failed {
			return err
		}
		if d.stage.config != nil {
			if v, err := d.look(m); err == nil && v.Epoch > d.epoch {
				return nil
			}
		}
		if !m.again(r, try) {
			return m.failed(r, args)
		}
	}
}

// send has a member send a text. What is kept goes out with the next command.
func (d *demo) send(from *actor, text string) error {
	args := []string{"chat", "send", d.id, text}
	r, err := from.tell(args...)
	if err == nil && d.stage.config != nil && r.kind == kindKept {
		_, err = from.do("chat", "read", d.id)
		return err
	}
	return errors.Join(err, from.failed(r, args))
}

// look is what a member sees of the conversation.
func (d *demo) look(m *actor) (v view, err error) {
	out, err := m.do("chat", "info", d.id, "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out[strings.LastIndex(out, "\n")+1:]), &v)
	}
	if err != nil {
		return view{}, fmt.Errorf("%s: %w", m.name, err)
	}
	return v, nil
}

// agree has every member take what waits, and compares what they see.
func (d *demo) agree(epoch uint64) error {
	for try := 1; ; try++ {
		views, err := d.compare(epoch)
		if err != nil && d.stage.config != nil && try < patience { // somebody has yet to send what was kept
			continue
		}
		for i, v := range views {
			d.tell("%-12s epoch %d, fingerprint %s, members %s", d.members[i].name, v.Epoch, v.Fingerprint, strings.Join(v.Members, " "))
			d.epoch = v.Epoch
		}
		return err
	}
}

func (d *demo) compare(epoch uint64) (views []view, err error) {
	for _, m := range d.members {
		v, err := d.look(m)
		if err != nil {
			return views, err
		}
		views = append(views, v)
		first, late := views[0], v.Epoch > epoch && d.stage.config != nil
		if v.Epoch != epoch && !late || v.Epoch != first.Epoch || v.Fingerprint != first.Fingerprint ||
			v.Authenticator != first.Authenticator || !slices.Equal(v.Members, first.Members) || len(v.Members) != len(d.members) {
			return views, fmt.Errorf("%s is not in epoch %d with the others", m.name, epoch)
		}
	}
	return views, nil
}
