// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

var (
	scaleTime = flag.Duration("scale", 0, "how long TestScaleOut works; 0: for 2000 operations")
	scaleSeed = flag.Uint64("scale-seed", 0, "of what TestScaleOut chooses; 0: another each time")
)

const (
	scaleProcesses     = 4
	scaleCallers       = 3 // of each process at once
	scaleConversations = 50
	scaleOperations    = 2000
)

// A fleet is several processes of alice on one PostgreSQL; and bob, and now and then
// carol, who live in this process.
type fleet struct {
	*testing.T
	server *pgtest.Server
	out    *outgoing
	order  order
	start  time.Time
	ended  atomic.Bool // something is wrong, or there is enough
	begun  atomic.Int64
	clock  atomic.Int64 // numbers what begins and ends

	berths   [scaleProcesses]*process
	launched int
	bob      *clienttest.Device
	carols   [scaleConversations]*clienttest.Device // one for each conversation, to come and go
	peers    [scaleConversations]sync.Mutex         // one call of bob and carol at a time

	mu       sync.Mutex
	counts   map[string]int
	took     map[string][]time.Duration
	runs     map[int]int // how many transactions were run so often
	sent     map[string]*sentText
	said     map[string]*saidText
	read     map[core.ConversationID][]string // by bob, in order
	heard    map[string]int                   // by a carol
	taking   map[int]map[string]int           // by process: texts about to be read
	replays  int                              // processes that may have died over what they replayed
	kept     map[int]bool
	trouble  map[string]int // what messages were to blame for, by the first words
	conflict map[int]int64  // by process
	lost     map[int]int64
}

// A sentText is what alice has sent, or has tried to.
type sentText struct {
	began, acknowledged int64 // 0: not
	read                int
}

// A saidText is what bob has said.
type saidText struct {
	read    int
	unknown bool // the process that was about to read it was killed
}

// A process is one of alice's.
type process struct {
	mu     sync.RWMutex // held for writing while it is replaced
	number int
	cmd    *exec.Cmd
	stderr *strings.Builder
	calls  *rpc.Client
}

// keyInText is an IdempotencyKey in errors that are counted.
var keyInText = regexp.MustCompile(`message [0-9a-f]{32}`)

type pipes struct {
	io.Reader
	io.WriteCloser
}

func scaleID(n int) core.ConversationID { return core.ConversationID(fmt.Sprint("conversation ", n)) }

func carolOf(id core.ConversationID) core.ClientID { return core.ClientID("carol of " + id) }

// TestScaleOut: four processes of one client hold 50 conversations in one PostgreSQL.
// They send, receive and commit at the same time, often in the same conversation; two
// are killed meanwhile, and so is PostgreSQL. No key is used twice, nothing is lost,
// nothing comes twice, and what was accepted for sending first comes first.
func TestScaleOut(t *testing.T) {
	if testing.Short() {
		t.Skip("runs for half a minute")
	}
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) })
	seed := *scaleSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-scale-seed %d", seed)
	f := newFleet(t, clienttest.Options{RefuseRepeats: seed%2 == 1})
	var workers sync.WaitGroup
	for i := range scaleProcesses * scaleCallers {
		workers.Go(func() { f.work(f.berths[i%scaleProcesses], rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	f.disturb(rand.New(rand.NewPCG(seed, 1<<32)))
	workers.Wait()
	worked := time.Since(f.start)
	f.settle()
	f.check()
	f.report(worked)
}

func newFleet(t *testing.T, options clienttest.Options) *fleet {
	f := &fleet{
		T: t, server: pgtest.Start(t), out: &outgoing{Backend: clienttest.NewService(options)},
		counts: map[string]int{}, took: map[string][]time.Duration{}, sent: map[string]*sentText{}, said: map[string]*saidText{},
		read: map[core.ConversationID][]string{}, heard: map[string]int{}, taking: map[int]map[string]int{}, kept: map[int]bool{},
		trouble: map[string]int{}, conflict: map[int]int64{}, lost: map[int]int64{}, runs: map[int]int{},
	}
	f.order = order{Dir: t.TempDir(), Client: "alice", Berth: &berth{DSN: f.server.DSN()}}
	cfg := config()
	suites, err := newRecorder(filepath.Join(f.order.Dir, "keys"))
	f.must(err)
	t.Cleanup(func() { _ = suites.file.Close() })
	cfg.Suites = suites
	f.bob = clienttest.NewDevice(t, f.out, "bob", memory.New(), cfg)
	f.bob.Identify(t, suite1)
	f.bob.Link.Receive = f.collect(f.bob.Link.Receive, f.bob, func(id core.ConversationID, text string) { f.read[id] = append(f.read[id], text) })

	store, err := postgres.Open(t.Context(), f.server.DSN())
	f.must(err)
	alice := clienttest.NewDevice(t, f.out, "alice", store, cfg)
	alice.Identify(t, suite1)
	for n := range scaleConversations {
		f.bob.Join.Group = []mls.Config{mls.DefaultConfig, private}[n%2]
		alice.New.Group = f.bob.Join.Group
		clienttest.Group(t, scaleID(n), alice, f.bob)
		carol := clienttest.NewDevice(t, f.out, carolOf(scaleID(n)), memory.New(), cfg)
		carol.Join.Group = f.bob.Join.Group
		carol.Identify(t, suite1)
		carol.Link.Receive = f.collect(carol.Link.Receive, carol, func(_ core.ConversationID, text string) { f.heard[text]++ })
		f.carols[n] = carol
	}
	f.must(alice.Close(t.Context()))
	f.must(store.Close())

	f.order.Socket = serve(t, f.out, &Listener{f})
	for i := range f.berths {
		f.berths[i] = &process{}
		f.launch(f.berths[i])
		t.Cleanup(func() { f.kill(f.berths[i]) })
	}
	f.start = time.Now()
	return f
}

func (f *fleet) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wrong ends the work.
func (f *fleet) wrong(format string, args ...any) {
	f.ended.Store(true)
	f.Errorf(format, args...)
}

// launch starts a process in a berth. The caller has it alone.
func (f *fleet) launch(p *process) {
	f.mu.Lock()
	f.launched++
	p.number = f.launched
	f.mu.Unlock()
	o := f.order
	o.Berth = &berth{DSN: f.order.Berth.DSN, Process: p.number}
	text, err := json.Marshal(o)
	f.must(err)
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	p.stderr = &strings.Builder{}
	p.cmd.Stderr = p.stderr
	in, err := p.cmd.StdinPipe()
	f.must(err)
	out, err := p.cmd.StdoutPipe()
	f.must(err)
	f.must(p.cmd.Start())
	p.calls = rpc.NewClient(pipes{out, in})
}

// kill ends a process at once, whatever it is doing.
func (f *fleet) kill(p *process) {
	_ = p.cmd.Process.Kill()
	_ = p.calls.Close()
	_ = p.cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for text := range f.taking[p.number] {
		if f.said[text] != nil {
			f.said[text].unknown = true
		}
	}
	if f.kept[p.number] {
		f.replays++
	}
}

// do has a process do something.
func (f *fleet) do(p *process, task Task) (done Done) {
	p.mu.RLock()
	number := p.number
	began := time.Now()
	err := p.calls.Call("Process.Do", task, &done)
	p.mu.RUnlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		done.Outcome, done.Err = "killed", err.Error()
	}
	f.counts[task.Op+", "+done.Outcome]++
	f.took[task.Op] = append(f.took[task.Op], time.Since(began))
	if done.Runs > 0 {
		f.runs[done.Runs]++
	}
	f.conflict[number] = max(f.conflict[number], done.Conflicts)
	f.lost[number] = max(f.lost[number], done.Lost)
	for _, e := range done.Events {
		name, _, _ := strings.Cut(e, " ")
		f.counts["event "+name]++
		switch name {
		case "client.Undelivered", "client.Left", "client.OutOfSync", "client.Lapsed":
			f.wrong("process %d: %s", number, e)
		}
	}
	for _, e := range done.Failed {
		f.trouble["message passed over: "+e]++
	}
	if done.Outcome != "done" && done.Outcome != "nothing to do" {
		f.trouble[done.Outcome+": "+keyInText.ReplaceAllString(done.Err, "message")]++
	}
	if done.Outcome == "wrong" {
		f.wrong("process %d: %s: %s", number, task.Op, done.Err)
	}
	return done
}

// Listener hears what the processes read.
type Listener struct{ f *fleet }

// Tell hears it.
func (l *Listener) Tell(r Reading, _ *struct{}) error {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	taking := f.taking[r.Process]
	if taking == nil {
		taking = map[string]int{}
		f.taking[r.Process] = taking
	}
	if r.Taking != "" {
		taking[r.Taking]++
	}
	if r.Took != "" {
		if taking[r.Took]--; taking[r.Took] == 0 {
			delete(taking, r.Took)
		}
	}
	f.kept[r.Process] = f.kept[r.Process] || r.Kept
	if r.Kept {
		f.counts["kept for later"]++
	}
	for _, text := range r.Texts {
		said := f.said[text]
		if said == nil {
			f.wrong("process %d has read %q, which nobody has said", r.Process, text)
			continue
		}
		said.read++
	}
	return nil
}

// collect has what a peer reads noted, in order.
func (f *fleet) collect(receive func(context.Context, core.ConversationID, []byte) error, d *clienttest.Device, note func(core.ConversationID, string)) func(context.Context, core.ConversationID, []byte) error {
	var mu sync.Mutex
	return func(ctx context.Context, id core.ConversationID, message []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if err := receive(ctx, id, message); err != nil {
			return err
		}
		texts := d.Texts()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, text := range texts {
			note(id, text)
		}
		return nil
	}
}

// enough says that no more is to be begun.
func (f *fleet) enough() bool { return f.ended.Load() || f.progress() >= 1 }

func (f *fleet) progress() float64 {
	if *scaleTime > 0 {
		return float64(time.Since(f.start)) / float64(*scaleTime)
	}
	return float64(f.begun.Load()) / scaleOperations
}

// disturb kills two processes and restarts PostgreSQL; in each minute of a long run.
func (f *fleet) disturb(random *rand.Rand) {
	rounds := max(1, int(scaleTime.Minutes()))
	for round := range rounds {
		for i, disturb := range []func(){
			func() { f.replace(f.berths[random.IntN(scaleProcesses)]) },
			func() {
				f.server.Kill(f)
				time.Sleep(200 * time.Millisecond)
				f.server.Run(f)
				f.count("PostgreSQL restarted")
			},
			func() { f.replace(f.berths[random.IntN(scaleProcesses)]) },
		} {
			for f.progress() < (float64(round)+float64(i+1)/4)/float64(rounds) {
				if f.ended.Load() {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			disturb()
		}
	}
}

// replace kills a process in the middle of its work and starts another.
func (f *fleet) replace(p *process) {
	f.count("processes killed")
	_ = p.cmd.Process.Kill() // before anybody is kept from working with it
	p.mu.Lock()
	defer p.mu.Unlock()
	f.kill(p)
	f.launch(p)
}

func (f *fleet) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[what]++
}

// work has a process do things chosen at random until there is enough.
func (f *fleet) work(p *process, random *rand.Rand) {
	for n := f.begun.Add(1); !f.enough(); n = f.begun.Add(1) {
		which := random.IntN(scaleConversations)
		dice := random.IntN(100)
		if random.IntN(3) == 0 { // where all meet; where most commits are, little is read
			which = random.IntN(2)
			if dice >= 90 {
				which += 2
			}
		}
		id := scaleID(which)
		text := fmt.Sprintf("%d in %d", n, which)
		switch {
		case dice < 45:
			f.send(p, Task{Op: "send", Conversation: id, Text: text})
		case dice < 90:
			if random.IntN(10) == 0 {
				f.peer(which, random)
			}
			f.say(which, text)
			if random.IntN(3) > 0 { // else it waits
				f.do(p, Task{Op: "receive", Conversation: id})
			}
		case dice < 92:
			f.send(p, Task{Op: "send and commit", Conversation: id, Text: text})
		case dice < 94:
			f.do(p, Task{Op: "stage", Conversation: id})
		case dice < 95:
			f.do(p, Task{Op: "add", Conversation: id, KeyPackage: f.carols[which].KeyPackage(f, suite1)})
		case dice < 96:
			f.do(p, Task{Op: "remove", Conversation: id})
		default:
			f.do(p, Task{Op: "commit", Conversation: id})
		}
	}
}

// send has a process send a text.
func (f *fleet) send(p *process, task Task) {
	s := &sentText{began: f.clock.Add(1)}
	f.mu.Lock()
	f.sent[task.Text] = s
	f.mu.Unlock()
	if done := f.do(p, task); done.Outcome == "done" {
		s.acknowledged = f.clock.Add(1)
	}
}

// say has bob read and say something.
func (f *fleet) say(which int, text string) {
	f.mu.Lock()
	f.said[text] = &saidText{}
	f.mu.Unlock()
	f.peers[which].Lock()
	defer f.peers[which].Unlock()
	err := f.bob.Link.Drain(f.Context(), scaleID(which))
	if err == nil {
		err = f.bob.In(f.Context(), scaleID(which), func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte(text), []byte(text))
			return err
		})
	}
	if err = errors.Join(err, f.bob.Settle(f.Context(), scaleID(which))); err != nil {
		f.wrong("bob: %v", err)
	}
}

// peer has bob commit, or carol read.
func (f *fleet) peer(which int, random *rand.Rand) {
	f.peers[which].Lock()
	defer f.peers[which].Unlock()
	id := scaleID(which)
	what := random.IntN(4)
	if what == 0 {
		if err := f.catchUp(f.carols[which], id); err != nil {
			f.wrong("carol: %v", err)
		}
		return
	}
	packages := [][]byte{f.carols[which].KeyPackage(f, suite1)}
	err := f.bob.Link.Drain(f.Context(), id)
	if err == nil {
		err = f.bob.In(f.Context(), id, func(ctx context.Context, c *client.Conversation) error {
			members, err := c.ClientIDs(ctx)
			if err != nil {
				return err
			}
			changes := client.Changes{Update: true}
			switch there := slices.Contains(members, carolOf(id)); {
			case what == 1 && there:
				changes = client.Changes{Remove: []core.ClientID{carolOf(id)}}
			case what == 2 && !there:
				changes = client.Changes{Add: packages}
			}
			result, err := c.Commit(ctx, changes)
			if err == nil && len(result.Replayed) > 0 {
				f.wrong("bob has replayed %+v", result.Replayed)
			}
			return err
		})
	}
	f.count("bob's commit, " + outcomeOf(err))
	if outcomeOf(err) == "wrong" {
		f.wrong("bob: %v", err)
	}
}

// catchUp has a device read what there is.
func (f *fleet) catchUp(d *clienttest.Device, id core.ConversationID) error {
	if err := d.Welcomes(f.Context()); err != nil {
		return err
	}
	if _, err := d.Info(f.Context(), id); errors.Is(err, client.ErrConversationNotFound) {
		return nil
	}
	return d.Link.Drain(f.Context(), id)
}

// settle has everything done that is left to do, and read.
func (f *fleet) settle() {
	for range 2 {
		var all sync.WaitGroup
		for i, p := range f.berths {
			all.Go(func() {
				for which := i; which < scaleConversations; which += scaleProcesses {
					for _, op := range []string{"settle", "receive"} {
						done := f.do(p, Task{Op: op, Conversation: scaleID(which)})
						for tries := 1; done.Outcome == "unknown" && tries < 5; tries++ { // an answer was lost
							done = f.do(p, Task{Op: op, Conversation: scaleID(which)})
						}
						if done.Outcome != "done" {
							f.Errorf("at the end: %s of conversation %d: %s %s", op, which, done.Outcome, done.Err)
						}
					}
				}
			})
		}
		all.Wait()
		for which := range scaleConversations {
			id := scaleID(which)
			if err := errors.Join(f.bob.Settle(f.Context(), id), f.catchUp(f.bob, id), f.catchUp(f.carols[which], id)); err != nil {
				f.Error(err)
			}
		}
	}
}

// check compares what has happened with what should have.
func (f *fleet) check() {
	for which := range scaleConversations {
		id := scaleID(which)
		want, waits, err := stateOf(f.Context(), f.bob, id)
		if err != nil || waits != "" {
			f.Errorf("bob, conversation %d: %s, %v", which, waits, err)
		}
		if got, waits, err := stateOf(f.Context(), f.carols[which], id); !errors.Is(err, client.ErrConversationNotFound) && (err != nil || got != want || waits != "") {
			f.Errorf("carol, conversation %d: %s, bob %s; %s, %v", which, got, want, waits, err)
		}
		for _, p := range f.berths {
			if done := f.do(p, Task{Op: "state", Conversation: id}); done.State != want || done.Waits != "" || done.Err != "" {
				f.Errorf("process %d, conversation %d: %s, bob %s; %s, %s", p.number, which, done.State, want, done.Waits, done.Err)
			}
		}
	}
	f.checkSent()
	f.checkSaid()
	for _, err := range f.bob.Failed() {
		f.Errorf("bob: %v", err)
	}
	noKeyTwice(f, filepath.Join(f.order.Dir, "keys"), f.out.left)
}

// checkSent: bob has read what was acknowledged once, and the rest not more than once;
// and what was acknowledged before something else began came before that.
func (f *fleet) checkSent() {
	for _, texts := range f.read {
		first := int64(1) << 62 // acknowledgement of what came later
		for _, text := range slices.Backward(texts) {
			s := f.sent[text]
			if s == nil {
				f.Errorf("bob has read %q, which nobody has sent", text)
				continue
			}
			if s.read++; s.read > 1 {
				f.Errorf("bob has read %q twice", text)
			}
			if first < s.began {
				f.Errorf("%q came before what was acknowledged before it began", text)
			}
			if s.acknowledged != 0 {
				first = min(first, s.acknowledged)
			}
		}
	}
	for text, s := range f.sent {
		if s.read == 0 && s.acknowledged != 0 {
			f.Errorf("%q was acknowledged and never came", text)
		}
		if s.acknowledged == 0 {
			f.counts[fmt.Sprintf("not acknowledged and read %d times", s.read)]++
		}
	}
	for text, n := range f.heard {
		if n > 1 {
			f.Errorf("carol has read %q %d times", text, n)
		}
	}
}

// checkSaid: alice has read all once, unless a process that was killed took the news of
// it along.
func (f *fleet) checkSaid() {
	missing := 0
	for text, s := range f.said {
		switch {
		case s.read > 1:
			f.Errorf("alice has read %q %d times", text, s.read)
		case s.read == 0 && s.unknown:
			missing++
		case s.read == 0:
			f.Errorf("alice has never read %q", text)
		}
	}
	f.counts["read by a process that was killed"] = missing
}

func (f *fleet) report(worked time.Duration) {
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(f.counts)) {
		lines = append(lines, fmt.Sprintf("%6d  %s", f.counts[what], what))
	}
	for _, what := range slices.Sorted(maps.Keys(f.trouble)) {
		lines = append(lines, fmt.Sprintf("%6d  %s", f.trouble[what], what))
	}
	sum := func(of map[int]int64) (n int64) {
		for _, x := range of {
			n += x
		}
		return n
	}
	lines = append(lines,
		fmt.Sprintf("%6d  answers of the delivery service lost", sum(f.lost)),
		fmt.Sprintf("%6d  conflicts in the store, retried", sum(f.conflict)),
		fmt.Sprintf("%6d  messages left", len(f.out.left)),
		fmt.Sprintf("transactions by how often they were run: %v", f.runs),
		fmt.Sprintf("%d operations in %v, %.0f in a second", f.begun.Load(), worked.Round(time.Millisecond), float64(f.begun.Load())/worked.Seconds()))
	for _, op := range slices.Sorted(maps.Keys(f.took)) {
		took := slices.Sorted(slices.Values(f.took[op]))
		at := func(part float64) time.Duration {
			return took[int(part*float64(len(took)-1))].Round(100 * time.Microsecond)
		}
		lines = append(lines, fmt.Sprintf("%s: half within %v, 99 in 100 within %v, all within %v", op, at(0.5), at(0.99), at(1)))
	}
	f.Log("\n" + strings.Join(lines, "\n"))
}
