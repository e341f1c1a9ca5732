// SPDX-License-Identifier: Apache-2.0

package delivery

import "github.com/conclave-mls/conclave/core"

// A standing is what a client is to a group.
type standing int

const (
	stranger standing = iota
	member
	former // was removed: reads up to that, posts nothing
)

func rosterKey(group scope, id core.ClientID) []byte {
	sc := clientScope(id)
	return group.key(sc[:])
}

// standingOf reads it from the records of the group and of its roster. Whoever is
// the first to post makes the group, as its only member.
func standingOf(group, roster core.Record) (standing, error) {
	switch {
	case absent(group):
		return member, nil
	case absent(roster):
		return stranger, nil
	}
	r, err := decodeMember(roster.Value)
	if err != nil || r.end != 0 {
		return former, err
	}
	return member, nil
}

// groupOf decodes the head of a group; one that nobody wrote to is in epoch 0.
func groupOf(r core.Record) (groupRecord, error) {
	if absent(r) {
		return groupRecord{}, nil
	}
	return decodeGroup(r.Value)
}
