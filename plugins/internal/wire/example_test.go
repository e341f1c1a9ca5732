// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

func Example() {
	m := wire.ToError(fmt.Errorf("record 7: %w", core.ErrConflict))
	err := wire.FromError(m)
	fmt.Println(m.Codes, err, errors.Is(err, core.ErrConflict))
	// Output: [ERROR_CODE_CONFLICT] record 7: conflict true
}
