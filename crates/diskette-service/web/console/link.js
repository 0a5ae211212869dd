// A WebSocket to a console of a node, by a ticket that is good once; it is opened again as long as the node runs.

import { path, post } from '../api.js';

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
/** What the service closes a console by when its machine has ended (RFC 6455: going away). */
export const ENDED = 1001;

/** The address of a console, good for one use. */
export async function address(node, kind, viewOnly, signal) {
  const issued = await post(path`/api/v1/nodes/${node}/console-ticket`, { kind, view_only: viewOnly }, { signal });
  return location.origin.replace(/^http/, 'ws') + issued.path;
}

/** Has `attempt()` be done again whenever it ends, with growing pauses, while `wanted()`. `attempt` gives how it ended: `lost`
    where it had been connected, `ended` where the machine ended, `closed` where that is not known, `refused` else. `told(state)` hears `connecting`, `waiting`, `off`. Gives `{poke, end}`: `poke` tries at once. */
export function persist(attempt, wanted, told) {
  let ended = false;
  let pause = FIRST_PAUSE;
  let wake = null;
  let running = false;
  const run = async () => {
    if (running) return;
    running = true;
    while (!ended && wanted()) {
      told('connecting');
      const how = await attempt().catch(() => 'refused');
      if (ended || !wanted()) break;
      pause = { lost: FIRST_PAUSE, closed: 4 * FIRST_PAUSE, ended: LONGEST_PAUSE }[how] ?? Math.min(pause * 2, LONGEST_PAUSE);
      told('waiting');
      await new Promise((done) => {
        const timer = setTimeout(done, pause);
        wake = () => { clearTimeout(timer); done(); };
      });
      wake = null;
    }
    running = false;
    if (!ended) told('off');
  };
  return {
    poke() {
      pause = FIRST_PAUSE;
      wake?.();
      run();
    },
    end() {
      ended = true;
      wake?.();
    },
  };
}
