// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
)

// A scenario is a story that every assignment of its actors to processes must
// bring to the same end.
type scenario struct {
	name  string
	steps []step
}

// scenarios are those of the harness, by their names there.
func scenarios() []scenario {
	return slices.Concat(welcomes(), commits(), applications(), externalJoins(), externalProposals(), reinits(), branches())
}

func welcomes() []scenario {
	enter := commit{by: "alice", value: []value{addValue("bob")}, joiners: []string{"bob"}}
	path, tree, withPSK := enter, enter, enter
	path.forcePath, tree.externalTree = true, true
	withPSK.value = []value{addValue("bob"), pskValue("shared")}
	return []scenario{
		{"welcome_join/no_path_secret", []step{create("alice"), keyPackage("bob"), enter.step()}},
		{"welcome_join/with_path_secret", []step{create("alice"), keyPackage("bob"), path.step()}},
		{"welcome_join/with_psk", []step{create("alice"), keyPackage("bob"), psk("shared", "alice", "bob"), withPSK.step()}},
		{"welcome_join/with_external_tree", []step{create("alice"), keyPackage("bob"), tree.step()}},
	}
}

func commits() []scenario {
	by := func(c commit) step { c.by = "alice"; return c.step() }
	pair := create("alice", "bob")
	// Two rounds, with and without a path: alice and bob propose, alice adds.
	round := func(propose func(by string, n int) step, v func(n int) value, joiners func(n int) []string) (steps []step) {
		for n, path := range []bool{true, false} {
			steps = append(steps, propose("alice", 3*n), propose("bob", 3*n+1))
			steps = append(steps, by(commit{value: []value{v(3*n + 2)}, joiners: joiners(n), forcePath: path}))
		}
		return steps
	}
	carol := func(n int) string { return fmt.Sprintf("carol%d", n) }
	label := func(n int) string { return fmt.Sprintf("key %d", n) }
	nobody := func(int) []string { return nil }
	keys := []step{pair}
	for n := range 6 {
		keys = append(keys, psk(label(n), "alice", "bob"))
	}
	carols := []string{carol(0), carol(1), carol(2)}
	empty := by(commit{})
	return []scenario{
		{"commit/empty", []step{pair, empty}},
		{"commit/add", append([]step{pair, keyPackage(carols...), keyPackage(carol(3), carol(4), carol(5))},
			round(func(by string, n int) step { return add(by, carol(n)) },
				func(n int) value { return addValue(carol(n)) },
				func(n int) []string { return []string{carol(3 * n), carol(3*n + 1), carol(3*n + 2)} })...)},
		{"commit/remove", []step{
			pair, keyPackage(carols...), add("alice", carols[0]), add("bob", carols[1]), add("alice", carols[2]),
			by(commit{joiners: carols}),
			remove("alice", carols[0]), remove("bob", carols[1]), by(commit{value: []value{removeValue(carols[2])}}),
		}},
		{"commit/update", []step{pair, update("bob"), by(commit{}), update("alice"), commit{by: "bob"}.step()}},
		{"commit/group_context_extensions", []step{
			pair, extensions("alice", requiresNothing, nobodyOutside), by(commit{}),
			extensions("bob"), by(commit{}), by(commit{value: []value{extensionsValue(requiresNothing)}}),
		}},
		{"commit/external_psk", append(keys,
			round(func(by string, n int) step { return externalPSK(by, label(n)) },
				func(n int) value { return pskValue(label(n)) }, nobody)...)},
		{"commit/resumption_psk", append([]step{pair, empty, empty},
			round(func(by string, n int) step { return resumption(by, uint64(1+n/2)) },
				func(n int) value { return resumptionValue(uint64(1 + n/2)) }, nobody)...)},
		{"commit/all_together_alice_proposes", allTogether("alice")},
		{"commit/all_together_bob_proposes", append(allTogether("bob"), update("bob"), by(commit{}))},
	}
}

// allTogether is a commit of alice with proposals of every kind, some of them sent
// before, by her or by bob. Whom it adds cannot join: they lack the resumption keys.
func allTogether(by string) []step {
	steps := []step{
		create("alice", "bob"), keyPackage("carol", "dave"), add("alice", "carol"), add("alice", "dave"),
		commit{by: "alice", joiners: []string{"carol", "dave"}}.step(),
		psk("one", "alice", "bob"), psk("two", "alice", "bob"), keyPackage("erin", "frank"),
		add(by, "erin"), remove(by, "carol"), extensions(by, requiresNothing, nobodyOutside),
		externalPSK(by, "one"), resumption(by, 1),
	}
	if by != "alice" {
		steps = append(steps, update(by))
	}
	return append(steps, commit{by: "alice", value: []value{
		addValue("frank"), removeValue("dave"), pskValue("two"), resumptionValue(2),
	}}.step())
}

func applications() []scenario {
	pair := create("alice", "bob")
	empty := commit{by: "alice"}.step()
	say := func(labels ...string) (steps []step) {
		for _, l := range labels {
			steps = append(steps, protect("alice", l))
		}
		return steps
	}
	hear := func(labels ...string) (steps []step) {
		for _, l := range labels {
			steps = append(steps, unprotect("bob", l))
		}
		return steps
	}
	return []scenario{
		{"application/in_order", slices.Concat([]step{pair}, say("1", "2", "3"), hear("1", "2", "3"))},
		{"application/out_of_order_within_epoch", slices.Concat([]step{pair}, say("1", "2", "3", "4", "5"), hear("5", "2", "4", "1", "3"))},
		{"application/out_of_order_across_epochs", slices.Concat([]step{pair},
			say("1", "2"), []step{empty}, say("3", "4"), []step{update("bob"), empty}, say("5", "6"),
			hear("6", "2", "3"), []step{empty}, hear("1", "5", "4"))},
	}
}

func externalJoins() []scenario {
	bob := externalJoin{from: "alice", joiner: "bob"}
	withPSK, again, tree := bob, bob, bob
	withPSK.psks, again.removePrior, tree.externalTree = []string{"shared", "another"}, true, true
	return []scenario{
		{"external_join/normal", []step{create("alice"), bob.step()}},
		{"external_join/with_psk", []step{create("alice"), psk("shared", "alice"), psk("another", "alice"), withPSK.step()}},
		{"external_join/removing_prior", []step{create("alice"), bob.step(), again.step(), commit{by: "bob"}.step()}},
		{"external_join/with_external_tree", []step{create("alice"), tree.step()}},
		{"external_join/with_more_members", []step{
			create("alice", "bob", "carol", "dave"), externalJoin{from: "dave", joiner: "erin"}.step(), commit{by: "bob"}.step(),
		}},
	}
}

func externalProposals() []scenario {
	done := commit{by: "alice"}.step()
	outside := func(name string, steps ...step) scenario {
		return scenario{"external_proposals/" + name, append([]step{create("alice", "bob"), signer("alice", "ds"), done}, steps...)}
	}
	return []scenario{
		{"external_proposals/joiner_signed_add", []step{
			create("alice", "bob"), joinerAdd("alice", "carol"), commit{by: "bob", joiners: []string{"carol"}}.step(),
		}},
		outside("external_add", keyPackage("carol"), signed("ds", "alice", false, addValue("carol")),
			commit{by: "alice", joiners: []string{"carol"}}.step()),
		outside("external_remove", keyPackage("carol"), add("bob", "carol"), commit{by: "alice", joiners: []string{"carol"}}.step(),
			signed("ds", "bob", true, removeValue("carol")), commit{by: "bob"}.step()),
		outside("external_psk", psk("shared", "alice", "bob"), signed("ds", "alice", false, pskValue("shared")), done),
		outside("resumption_psk", done, done, signed("ds", "alice", false, resumptionValue(2)), commit{by: "bob"}.step()),
		outside("group_context_extensions", signed("ds", "bob", false, extensionsValue(requiresNothing)), done),
		outside("multiple_external", signer("bob", "other"), done, keyPackage("carol"), psk("shared", "alice", "bob", "carol"),
			signed("other", "alice", false, addValue("carol")), signed("ds", "bob", true, pskValue("shared")),
			commit{by: "alice", joiners: []string{"carol"}}.step()),
		outside("external_reinit", signed("ds", "alice", false, (&successor{changeSuite: true, changeID: true}).value()),
			reinit{committer: "alice", welcomer: "bob", to: &successor{changeSuite: true, changeID: true}}.step()),
	}
}

func reinits() []scenario {
	all := func(name string, r reinit) scenario {
		return scenario{"reinit/" + name, []step{
			create("alice", "bob", "carol"), psk("shared", "alice", "bob", "carol"), r.step(),
			externalPSK("bob", "shared"), commit{by: "carol", value: []value{resumptionValue(1)}}.step(),
		}}
	}
	to := &successor{changeSuite: true, changeID: true}
	return []scenario{
		all("change_ciphersuite", reinit{proposer: "alice", committer: "bob", welcomer: "carol", to: &successor{changeSuite: true}}),
		all("change_group_id", reinit{proposer: "alice", committer: "bob", welcomer: "carol", to: &successor{changeID: true}}),
		all("change_extensions", reinit{proposer: "bob", committer: "carol", welcomer: "alice",
			to: &successor{extensions: []*pb.Extension{requiresNothing, nobodyOutside}}}),
		all("all_same_actor", reinit{proposer: "alice", committer: "alice", welcomer: "alice", to: to}),
		all("external_tree", reinit{proposer: "alice", committer: "bob", welcomer: "carol", to: to, externalTree: true}),
		all("force_path", reinit{proposer: "alice", committer: "bob", welcomer: "carol", to: to, forcePath: true}),
	}
}

func branches() []scenario {
	off := func(name string, b branch) scenario {
		b.creator, b.others = "bob", []string{"carol", "alice"}
		return scenario{"branch/" + name, []step{
			create("alice", "bob", "carol", "dave"), psk("shared", "alice", "bob", "carol"), b.step(),
			externalPSK("carol", "shared"), commit{by: "alice"}.step(),
		}}
	}
	return []scenario{
		off("base", branch{}),
		off("with_extensions", branch{extensions: []*pb.Extension{requiresNothing, nobodyOutside}}),
		off("external_tree", branch{externalTree: true}),
		off("force_path", branch{forcePath: true}),
	}
}

var (
	assignments = flag.Uint("assignments", 1, "of actors to processes, for each scenario, suite and mode")
	deepSteps   = flag.Int("deep", 200, "steps of the deep random scenario; half of them in the suites 4 to 7")
)

// Server processes play every scenario against each other, in every suite and both
// handshake modes. The assignment of actors to processes is another for each.
func TestScenarios(t *testing.T) {
	t.Parallel()
	addresses := []string{startServer(t), startServer(t)}
	processes := []pb.MLSClientClient{dial(t, addresses[0]), dial(t, addresses[1])}
	names := map[string]int{}
	for _, s := range scenarios() {
		names[s.name]++
	}
	if len(names) != 39 { // 4 + 9 + 3 + 5 + 8 + 6 + 4
		t.Fatalf("%d scenarios", len(names))
	}
	suites, err := processes[0].SupportedCiphersuites(t.Context(), &pb.SupportedCiphersuitesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(suites.GetCiphersuites())); !slices.Equal(got, []uint32{1, 2, 3, 4, 5, 6, 7}) {
		t.Fatalf("suites %v", got)
	}
	for i, suite := range suites.GetCiphersuites() {
		for mode, private := range []bool{false, true} {
			t.Run(fmt.Sprintf("suite %d, private %v", suite, private), func(t *testing.T) {
				t.Parallel()
				for _, s := range scenarios() {
					for n := range *assignments {
						c := casting{processes, suite, private, uint(2*i+mode) + 1 + n}
						if err := newPlay(t.Context(), c).run(s.steps); err != nil {
							t.Errorf("%s, assignment %d: %v", s.name, c.number%16, err)
						}
					}
				}
				steps := *deepSteps
				if suite > 3 { // they are slow
					steps /= 2
				}
				c := casting{processes, suite, private, rand.UintN(16)}
				seed := rand.Uint64()
				d := &deep{play: newPlay(t.Context(), c), lot: rand.New(rand.NewPCG(seed, 0)), limit: 6 + *deepSteps/100}
				if err := d.run(steps); err != nil {
					t.Errorf("deep_random, seed %d, assignment %d: %v", seed, c.number, err)
				}
			})
		}
	}
}
