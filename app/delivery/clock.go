// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Clock asks the service what time it is: its HTTP Date, in whole seconds. Any
// answer will do, also a refusal. ErrUnavailable: there was none, or it had no date.
func (c *Client) Clock(ctx context.Context) (time.Time, error) {
	fail := func(err error) (time.Time, error) {
		return time.Time{}, fmt.Errorf("delivery service: %w: %w", core.ErrUnavailable, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, c.base+"/v1/key-packages", nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("delivery service: %w: %w", core.ErrInvalid, err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return fail(err)
	}
	if err := response.Body.Close(); err != nil {
		return fail(err)
	}
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return fail(err)
	}
	return date, nil
}
