// SPDX-License-Identifier: Apache-2.0
// Latency and rate of actions over the last five minutes.

import { chart } from './chart.js';
import { Part, fill, h } from './dom.js';
import { milliseconds } from './format.js';

export class HistoryCard extends Part {
  build() {
    this.charts = h('div.charts');
    this.card('Latency and rate', this.charts);
  }

  show({ robot, now, isLost }) {
    const samples = robot?.samples ?? [];
    if (isLost) return;
    const last = samples.at(-1)?.at ?? 0;
    fill(this.charts, [robot?.key, last], () => {
      const line = (name, kind, field) => ({
        name,
        kind,
        points: samples.map((sample) => [sample.at, sample[field]]),
      });
      return [
        chart(
          'Latency',
          [line('image to action', 'a', 'latency'), line('inference', 'b', 'inference')],
          now,
          milliseconds,
        ),
        chart(
          'Rate',
          [line('actions', 'a', 'hz')],
          now,
          (hz) => `${hz.toFixed(hz < 10 ? 1 : 0)} Hz`,
        ),
      ];
    });
  }
}

customElements.define('vla-history', HistoryCard);
