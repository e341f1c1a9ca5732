// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
)

// A preKeyLine is what --json prints of a prekey.
type preKeyLine struct {
	ID         uint16 `json:"id"`
	PreKey     []byte `json:"prekey,omitempty"`
	LastResort bool   `json:"last_resort,omitempty"`
}

func (p *program) proteusPreKeys() *cobra.Command {
	var first uint16
	var last bool
	cmd := &cobra.Command{
		Use:   "prekeys [N]",
		Short: "Make prekeys, by which others open sessions with you",
		Long: `Make N prekeys and print what others need of them in base64, one a line. Each is for one
session: who opens one with you takes it, and then it is gone. That of last resort, which
--last-resort prints, stays, for when all others are used; it is always the same.

They have the lowest ids that are free, or those from --first on; one that is there is
never replaced. Without N, and without --last-resort, the ids of those that are left are
listed.`,
		Example: `  conclave proteus prekeys 100
  conclave proteus prekeys 10 --first 500 --json
  conclave proteus prekeys --last-resort
  conclave proteus prekeys`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen := cmd.Flags().Changed("first")
			n := 0
			if len(args) == 1 {
				var err error
				if n, err = strconv.Atoi(args[0]); err != nil || n < 1 || chosen && int(first)+n > proteus.LastResortPreKeyID {
					return hint(fmt.Errorf("%s prekeys: %w", plain(args[0]), core.ErrInvalid), "N is a number, and ids are from 0 to %d", proteus.LastResortPreKeyID-1)
				}
			} else if chosen {
				return hint(fmt.Errorf("--first without a number of prekeys: %w", core.ErrInvalid), "it is called so: conclave proteus prekeys N --first ID")
			}
			return p.withSessions(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if n == 0 && !last {
					return p.listPreKeys(ctx, c)
				}
				if err := p.makePreKeys(ctx, c, n, first, chosen); err != nil || !last {
					return err
				}
				line := preKeyLine{ID: proteus.LastResortPreKeyID, LastResort: true}
				err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
					line.PreKey, err = x.LastResortPreKey(ctx)
					return err
				})
				if err != nil {
					return err
				}
				return p.printPreKey(line)
			})
		},
	}
	cmd.Flags().Uint16Var(&first, "first", 0, "id of the first, the others follow (default the lowest free ones from 1 on)")
	cmd.Flags().BoolVar(&last, "last-resort", false, "print that of last resort")
	return cmd
}

func (p *program) printPreKey(line preKeyLine) error {
	if p.json {
		return p.printJSON(line)
	}
	p.progress.clear()
	_, err := fmt.Fprintln(p.out, base64.StdEncoding.EncodeToString(line.PreKey))
	return err
}

// preKeyPage is how many prekeys become durable, and are printed, at once.
const preKeyPage = 100

func (p *program) makePreKeys(ctx context.Context, c *client.Client, n int, first uint16, chosen bool) error {
	var ids []uint16
	err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
		taken, err := x.PreKeys(ctx)
		if err != nil {
			return err
		}
		ids, err = freePreKeys(taken, n, first, chosen)
		return err
	})
	if err != nil {
		return err
	}
	done := 0
	for page := range slices.Chunk(ids, preKeyPage) {
		lines := make([]preKeyLine, len(page))
		err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
			for i, id := range page {
				lines[i].ID = id
				if lines[i].PreKey, err = x.NewPreKey(ctx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, line := range lines {
			if err := p.printPreKey(line); err != nil {
				return err
			}
		}
		done += len(page)
		p.progress.at("prekeys", done, n)
	}
	return nil
}

// freePreKeys picks n ids that are not taken, which are ascending.
func freePreKeys(taken []uint16, n int, first uint16, chosen bool) (ids []uint16, err error) {
	id := 1
	if chosen {
		id = int(first)
	}
	for ; len(ids) < n; id++ {
		if id == proteus.LastResortPreKeyID {
			return nil, fmt.Errorf("%d prekeys, and %d ids: %w", n, len(ids), client.ErrNoFreePreKey)
		}
		switch _, found := slices.BinarySearch(taken, uint16(id)); {
		case !found:
			ids = append(ids, uint16(id))
		case chosen:
			return nil, fmt.Errorf("prekey %d: %w", id, client.ErrPreKeyExists)
		}
	}
	return ids, nil
}

func (p *program) listPreKeys(ctx context.Context, c *client.Client) error {
	var ids []uint16
	err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
		if _, err := x.Fingerprint(ctx); err != nil {
			return err
		}
		var err error
		ids, err = x.PreKeys(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if p.json {
			if err := p.printJSON(preKeyLine{ID: id, LastResort: id == proteus.LastResortPreKeyID}); err != nil {
				return err
			}
		}
	}
	if p.json {
		return nil
	}
	ids = slices.DeleteFunc(ids, func(id uint16) bool { return id == proteus.LastResortPreKeyID })
	if len(ids) == 0 {
		p.printf("none but that of last resort; make some with: %s\n", p.here("conclave proteus prekeys N"))
		return nil
	}
	p.printf("%d are left, beside that of last resort: %s\n", len(ids), ranges(ids))
	return nil
}

// ranges writes ascending numbers as people do.
func ranges(ids []uint16) string {
	var out []string
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && ids[n] == ids[0]+uint16(n) {
			n++
		}
		switch first, last := ids[0], ids[n-1]; n {
		case 1:
			out = append(out, fmt.Sprint(first))
		case 2:
			out = append(out, fmt.Sprint(first), fmt.Sprint(last))
		default:
			out = append(out, fmt.Sprintf("%d to %d", first, last))
		}
		ids = ids[n:]
	}
	return strings.Join(out, ", ")
}
